package hyperv

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"l4lab/lab/powershell"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/state"
	"l4lab/topology"
)

// ErrSecret is matched by errors about a password that could not be had.
var ErrSecret = errors.New("no password")

// userOf returns a login's user.
func userOf(c topology.Credential) (string, error) {
	if c.UserEnv == "" {
		return c.User, nil
	}
	user := os.Getenv(c.UserEnv)
	if user == "" {
		return "", fmt.Errorf("no user: the environment variable %s is not set", c.UserEnv)
	}
	return user, nil
}

// passwordOf reads a login's password from where the topology says; whose is
// for the question at the terminal. It is read anew each time and kept nowhere.
func (p *Provider) passwordOf(ctx context.Context, c topology.Credential, whose string) (powershell.Password, error) {
	switch {
	case c.PasswordEnv != "":
		text := os.Getenv(c.PasswordEnv)
		if text == "" {
			return "", fmt.Errorf("%w for %s: the environment variable %s is not set", ErrSecret, whose, c.PasswordEnv)
		}
		return powershell.Password(text), nil
	case c.PasswordFile != "":
		return readPassword(c.PasswordFile, whose)
	case p.o.Ask == nil:
		return "", fmt.Errorf("%w for %s: the topology names neither passwordEnv nor passwordFile, and there is no terminal to ask at", ErrSecret, whose)
	}
	text, err := p.o.Ask(ctx, "Password of "+whose)
	if err == nil && text == "" {
		err = errors.New("nothing was entered")
	}
	if err != nil {
		return "", fmt.Errorf("%w for %s: %w", ErrSecret, whose, err)
	}
	return powershell.Password(text), nil
}

// readPassword reads the first line of a file that its owner alone can read.
func readPassword(path, whose string) (powershell.Password, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%w for %s: %w", ErrSecret, whose, err)
	}
	// On Windows the mode says nothing; the folder's rights do.
	if runtime.GOOS != "windows" && st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%w for %s: %s can be read by others (mode %04o): chmod 600 it", ErrSecret, whose, path, st.Mode().Perm())
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%w for %s: %w", ErrSecret, whose, err)
	}
	defer f.Close()
	line := bufio.NewScanner(f)
	line.Scan()
	if err := line.Err(); err != nil {
		return "", fmt.Errorf("%w for %s: read %s: %w", ErrSecret, whose, path, err)
	}
	if line.Text() == "" {
		return "", fmt.Errorf("%w for %s: the first line of %s is empty", ErrSecret, whose, path)
	}
	return powershell.Password(line.Text()), nil
}

// windowsLogin returns the administrator of a lab's Windows guests. A password
// that is named nowhere is made up once and kept in the lab's folder.
func (p *Provider) windowsLogin(ctx context.Context, lab provider.Lab, image topology.HyperVImage) (scripts.Credential, error) {
	user, err := userOf(image.Login)
	if err != nil {
		return scripts.Credential{}, fmt.Errorf("log on to Windows guests: %w", err)
	}
	var password powershell.Password
	if image.Login.PasswordEnv != "" || image.Login.PasswordFile != "" {
		password, err = p.passwordOf(ctx, image.Login, user+" of the Windows guests")
	} else {
		password, err = madeUp(filepath.Join(lab.Dir, "keys", "windows-password"))
	}
	return scripts.Credential{User: user, Password: string(password)}, err
}

// madeUp returns the password in a file, which is made when it is missing.
func madeUp(path string) (powershell.Password, error) {
	const whose = "the Windows guests"
	password, err := readPassword(path, whose)
	if !errors.Is(err, fs.ErrNotExist) {
		return password, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	// Windows wants three kinds of characters; rand.Text has capitals and digits,
	// 130 bits of them.
	text := rand.Text() + "-" + strings.ToLower(rand.Text()[:4])
	draft := path + "." + rand.Text()[:6]
	if err := state.WriteFile(draft, []byte(text+"\n"), 0o600); err != nil {
		return "", err
	}
	defer os.Remove(draft)
	// Of several that make one at once, the first one's counts.
	if err := os.Link(draft, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("keep the password of the Windows guests: %w", err)
	}
	return readPassword(path, whose)
}
