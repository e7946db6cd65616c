package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// User is a user of the machine's, who is let in by key.
type User struct {
	Name string
	// Comment is the name in full, Shell the program to log in to, "" for /bin/sh.
	// Both are for a user that is made; one that is there keeps its own.
	Comment, Shell string
	// LockPassword has no password let the user in. A user that is made has none.
	LockPassword bool
	// Sudo are the rules after the user's name in sudoers(5).
	Sudo []string
	// AuthorizedKeys are added to those that are let in already.
	AuthorizedKeys []string
}

// ErrNoSudo says that a user may use a sudo that the machine does not have.
var ErrNoSudo = errors.New("sudo is not installed")

// sudoersFile has the rules of all users of a seed. sudo(8) passes over names
// with a dot, so that it sees no draft of it.
const sudoersFile = "/etc/sudoers.d/90-l4lab"

// AddUsers makes the users of a seed and adds to those that are there. One that
// fails keeps no other from coming about.
func (m Machine) AddUsers(users []User) error {
	var errs []error
	for _, u := range users {
		if err := m.addUser(u); err != nil {
			errs = append(errs, fmt.Errorf("user %q: %w", u.Name, err))
		}
	}
	return errors.Join(append(errs, m.permitSudo(users))...)
}

func (m Machine) addUser(u User) error {
	if u.Name == "" || u.Name[0] == '-' || strings.ContainsAny(u.Name, ":/,\n\t ") {
		return errors.New("this is no user's name")
	}
	if strings.ContainsAny(u.Comment+u.Shell, ":\n") {
		return errors.New("its comment or shell holds a colon or a line's end")
	}
	a, err := m.ensureAccount(u)
	if err != nil {
		return err
	}
	if u.LockPassword {
		if err := m.lockPassword(u.Name); err != nil {
			return err
		}
	}
	if a.uid >= firstPerson {
		if err := m.ensureFolder(a.home, 0o755, a.owner); err != nil {
			return err
		}
	}
	return m.Authorize(u.Name, u.AuthorizedKeys)
}

// ensureFolder makes a folder of a user's.
func (m Machine) ensureFolder(path string, mode fs.FileMode, of owner) error {
	here := m.path(path)
	if err := os.MkdirAll(filepath.Dir(here), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(here, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	st, err := os.Lstat(here)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is no folder", path)
	}
	if ownerOf(st) == of {
		return nil
	}
	if err := m.Chown(here, of.uid, of.gid); err != nil {
		return fmt.Errorf("give %s to its user: %w", path, err)
	}
	m.Log.Info("made the folder "+path, "uid", of.uid)
	return nil
}

// Authorize lets keys log in as a user.
func (m Machine) Authorize(name string, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	a, err := m.account(name)
	if err != nil {
		return err
	}
	folder := filepath.Join(a.home, ".ssh")
	path := filepath.Join(folder, "authorized_keys")
	before, err := os.ReadFile(m.path(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	lines := strings.FieldsFunc(string(before), func(r rune) bool { return r == '\n' })
	for _, k := range keys {
		if k = strings.TrimSpace(k); !slices.Contains(lines, k) {
			lines = append(lines, k)
		}
	}
	if err := m.ensureFolder(folder, 0o700, a.owner); err != nil {
		return err
	}
	return m.write(File{Path: path, Data: []byte(strings.Join(lines, "\n") + "\n"), Mode: 0o600}, a.owner)
}

// permitSudo writes the rules of all users.
func (m Machine) permitSudo(users []User) error {
	var text strings.Builder
	for _, u := range users {
		for _, rule := range u.Sudo {
			if strings.Contains(u.Name+rule, "\n") {
				return fmt.Errorf("user %q: its rule for sudo holds a line's end", u.Name)
			}
			fmt.Fprintf(&text, "%s %s\n", u.Name, rule)
		}
	}
	if text.Len() == 0 {
		return nil
	}
	if _, err := os.Stat(m.path("/usr/bin/sudo")); err != nil {
		return fmt.Errorf("let users use sudo: %w", ErrNoSudo)
	}
	return m.WriteFile(File{Path: sudoersFile, Data: []byte(text.String()), Mode: 0o440})
}
