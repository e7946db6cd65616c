package keys

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Password returns the password of a lab's that is kept under a name
// ("windows-password"), made up when it is missing. It is a secret: callers put
// it into a type that no way of printing shows.
func Password(labDir, name string) (string, error) {
	path := filepath.Join(labDir, Folder, name)
	password, err := ReadPassword(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return password, err
	}
	// Windows wants three kinds of characters; rand.Text has capitals and digits,
	// 130 bits of them.
	text := rand.Text() + "-" + strings.ToLower(rand.Text()[:4])
	if err := place(path, []byte(text+"\n")); err != nil {
		return "", fmt.Errorf("keep the password %s: %w", path, err)
	}
	return ReadPassword(path)
}

// ReadPassword returns the first line of a file that its owner alone can read.
func ReadPassword(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !private(st.Mode()) {
		return "", fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, st.Mode().Perm())
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	line := bufio.NewScanner(f)
	line.Scan()
	if err := line.Err(); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if line.Text() == "" {
		return "", fmt.Errorf("the first line of %s is empty", path)
	}
	return line.Text(), nil
}
