package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The files of users and groups, and the first number of a person's.
const (
	passwdFile  = "/etc/passwd"
	shadowFile  = "/etc/shadow"
	groupFile   = "/etc/group"
	firstPerson = 1000
)

// noPassword stands where a password's hash would: none fits it. A "!" would
// keep OpenSSH without PAM from taking a key as well.
const noPassword = "*"

// account is a line of passwd.
type account struct {
	owner
	home string
}

// fields are the parts of a line.
func fields(line string) []string { return strings.Split(strings.TrimRight(line, "\n"), ":") }

// lines returns the lines of a file with at least so many parts, by their names.
func (m Machine) lines(path string, parts int) (map[string][]string, error) {
	text, err := os.ReadFile(m.path(path))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	found := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		if f := fields(line); len(f) >= parts && found[f[0]] == nil {
			found[f[0]] = f
		}
	}
	return found, nil
}

// account returns a user, fs.ErrNotExist when there is none of that name.
func (m Machine) account(name string) (account, error) {
	users, err := m.lines(passwdFile, 7)
	if err != nil {
		return account{}, err
	}
	f := users[name]
	if f == nil {
		return account{}, fmt.Errorf("user %s: %w", name, fs.ErrNotExist)
	}
	uid, errU := strconv.Atoi(f[2])
	gid, errG := strconv.Atoi(f[3])
	if err := errors.Join(errU, errG); err != nil {
		return account{}, fmt.Errorf("read %s: user %s: %w", passwdFile, name, err)
	}
	return account{owner{uid, gid}, f[5]}, nil
}

// ensureAccount makes a user with a group of the same name. passwd, by which an
// account is known, comes last.
func (m Machine) ensureAccount(u User) (account, error) {
	a, err := m.account(u.Name)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	groups, err := m.lines(groupFile, 4)
	if err != nil {
		return a, err
	}
	if groups[u.Name] == nil {
		id, err := m.freeNumber(groups)
		if err != nil {
			return a, err
		}
		if err := m.addLine(groupFile, u.Name, "x", strconv.Itoa(id), ""); err != nil {
			return a, err
		}
		groups[u.Name] = []string{u.Name, "x", strconv.Itoa(id), ""}
	}
	gid := groups[u.Name][2]
	delete(groups, u.Name) // its number may be the user's as well
	uid, err := m.freeNumber(groups)
	if err != nil {
		return a, err
	}
	if err := m.addLine(shadowFile, u.Name, noPassword, "20000", "0", "99999", "7", "", "", ""); err != nil {
		return a, err
	}
	shell := u.Shell
	if shell == "" {
		shell = "/bin/sh"
	}
	if err := m.addLine(passwdFile, u.Name, "x", strconv.Itoa(uid), gid, u.Comment, "/home/"+u.Name, shell); err != nil {
		return a, err
	}
	m.Log.Info("made the user "+u.Name, "uid", uid)
	return m.account(u.Name)
}

// freeNumber returns a number that no user has, and none of the groups given.
func (m Machine) freeNumber(groups map[string][]string) (int, error) {
	users, err := m.lines(passwdFile, 7)
	if err != nil {
		return 0, err
	}
	taken := map[string]bool{}
	for _, f := range users {
		taken[f[2]] = true
	}
	for _, f := range groups {
		taken[f[2]] = true
	}
	id := firstPerson
	for taken[strconv.Itoa(id)] {
		id++
	}
	return id, nil
}

// addLine adds a line to a file, unless there is one of that name.
func (m Machine) addLine(path string, parts ...string) error {
	return m.edit(path, func(text string) string {
		for line := range strings.Lines(text) {
			if fields(line)[0] == parts[0] {
				return text
			}
		}
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		return text + strings.Join(parts, ":") + "\n"
	})
}

// setPart sets a part of a user's line.
func (m Machine) setPart(path, name string, part int, value string) error {
	return m.edit(path, func(text string) string {
		lines := slices.Collect(strings.Lines(text))
		for i, line := range lines {
			if f := fields(line); f[0] == name && len(f) > part && f[part] != value {
				f[part] = value
				lines[i] = strings.Join(f, ":") + "\n"
			}
		}
		return strings.Join(lines, "")
	})
}

// lockPassword has no password let a user in.
func (m Machine) lockPassword(name string) error {
	return errors.Join(
		m.addLine(shadowFile, name, noPassword, "20000", "0", "99999", "7", "", "", ""),
		m.setPart(shadowFile, name, 1, noPassword),
		m.setPart(passwdFile, name, 1, "x")) // an empty one is a user without a password
}
