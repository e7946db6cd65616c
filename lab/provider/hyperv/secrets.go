package hyperv

import (
	"context"
	"errors"
	"fmt"
	"os"

	"l4lab/lab/guest/keys"
	"l4lab/lab/powershell"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
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

func readPassword(path, whose string) (powershell.Password, error) {
	text, err := keys.ReadPassword(path)
	if err != nil {
		return "", fmt.Errorf("%w for %s: %w", ErrSecret, whose, err)
	}
	return powershell.Password(text), nil
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
		var text string
		if text, err = keys.Password(lab.Dir, "windows-password"); err != nil {
			err = fmt.Errorf("%w for the Windows guests: %w", ErrSecret, err)
		}
		password = powershell.Password(text)
	}
	return scripts.Credential{User: user, Password: string(password)}, err
}
