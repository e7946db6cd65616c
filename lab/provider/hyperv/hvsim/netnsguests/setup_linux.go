package netnsguests

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/role/windows/guestscripts"
)

// errNoAnswers: a generalised image asks a person at its first start.
var errNoAnswers = errors.New("the image is generalised and there is no answer file: set-up waits for somebody at the console")

// answers is what set-up takes from an answer file (unattend.xml, the
// component Microsoft-Windows-Shell-Setup).
type answers struct {
	computer string
	// users are passwords by name.
	users map[string]string
}

// setUp is the first boot of a disk. The file stays in Windows\Panther, with
// what it says, until setup-clean removes it.
func (m *guest) setUp(w *windows) error {
	if m.machine.Unattend == nil {
		return errNoAnswers
	}
	a, err := parseAnswers(m.machine.Unattend)
	if err != nil {
		return fmt.Errorf("the answer file: %w", err)
	}
	if len(a.users) == 0 {
		return fmt.Errorf("the answer file sets no password: %w", errNoAnswers)
	}
	w.Computer = a.computer
	if w.Computer == "" || w.Computer == "*" {
		w.Computer = "WIN-" + strings.ToUpper(hex.EncodeToString(m.machine.MAC[2:]))
	}
	for name, password := range a.users {
		hash, err := hashPassword(password)
		if err != nil {
			return err
		}
		w.Users[strings.ToLower(name)] = hash
	}
	for _, path := range []string{`C:\Windows\Panther\unattend.xml`} {
		if err := m.writeFile(path, m.machine.Unattend); err != nil {
			return err
		}
	}
	return nil
}

// parseAnswers finds the computer's name and the users' passwords, wherever
// the passes of the file have them.
func parseAnswers(text []byte) (answers, error) {
	a := answers{users: map[string]string{}}
	decoder := xml.NewDecoder(bytes.NewReader(text))
	var path []string
	var account struct{ name, value, plain string }
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return a, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			path = append(path, t.Name.Local)
			if t.Name.Local == "LocalAccount" || t.Name.Local == "AdministratorPassword" {
				account.name, account.value, account.plain = "", "", ""
			}
		case xml.CharData:
			value := string(t)
			switch last(path, 0) {
			case "ComputerName":
				a.computer = strings.TrimSpace(value)
			case "Name":
				if last(path, 1) == "LocalAccount" {
					account.name = strings.TrimSpace(value)
				}
			case "Value":
				account.value += value
			case "PlainText":
				account.plain = strings.ToLower(strings.TrimSpace(value))
			}
		case xml.EndElement:
			path = path[:len(path)-1]
			name, suffix := account.name, "Password"
			switch t.Name.Local {
			case "AdministratorPassword":
				name, suffix = "Administrator", "AdministratorPassword"
			case "LocalAccount":
			default:
				continue
			}
			password, err := decodePassword(account.value, account.plain, suffix)
			if err != nil {
				return a, fmt.Errorf("the password of %s: %w", name, err)
			}
			a.users[name] = password
		}
	}
}

func last(path []string, n int) string {
	if len(path) <= n {
		return ""
	}
	return path[len(path)-1-n]
}

// decodePassword returns a password of an answer file: as it is, or from base64
// of UTF-16 with the element's name after it (what Windows SIM writes).
func decodePassword(value, plain, suffix string) (string, error) {
	if plain != "false" {
		return value, nil
	}
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil || len(data)%2 != 0 {
		return "", errors.New("it is no base64 of UTF-16")
	}
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = uint16(data[2*i]) | uint16(data[2*i+1])<<8
	}
	password, ok := strings.CutSuffix(string(utf16.Decode(units)), suffix)
	if !ok {
		return "", fmt.Errorf("its base64 form does not end in %q", suffix)
	}
	return password, nil
}

// hashPassword makes SALT:HASH. The passwords of a lab are random and long.
func hashPassword(password string) (string, error) {
	salt := make([]byte, 8)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	sum := sha256.Sum256(append(salt, password...))
	return hex.EncodeToString(salt) + ":" + hex.EncodeToString(sum[:]), nil
}

// lets says whether a user may log on. A name may have the machine's, or a dot,
// in front.
func (w *windows) lets(as hvsim.Login) bool {
	name := strings.ToLower(as.User[strings.LastIndexByte(as.User, '\\')+1:])
	saltText, hash, ok := strings.Cut(w.Users[name], ":")
	salt, err := hex.DecodeString(saltText)
	if !ok || err != nil {
		return false
	}
	sum := sha256.Sum256(append(salt, as.Password...))
	return subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(hash)) == 1
}

func setupClean(_ context.Context, m *guest, _ *windows, _ guestscripts.None) (guestscripts.Changed, error) {
	c := guestscripts.Changed{What: []string{}}
	for _, file := range []string{`Panther\unattend.xml`, `Panther\unattend-original.xml`, `Panther\Unattend\unattend.xml`, `System32\Sysprep\unattend.xml`} {
		real, err := m.real(`C:\Windows\` + file)
		if err != nil {
			return c, err
		}
		err = os.Remove(real)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return c, err
		}
		c.What = append(c.What, file)
	}
	c.Changed = len(c.What) > 0
	return c, nil
}

// real returns the real path of a path of the machine's drive C. Windows does
// not tell capitals from small letters; what is not there yet is made as it is
// written.
func (m *guest) real(path string) (string, error) {
	rest, ok := cutDrive(path)
	if !ok {
		return "", fmt.Errorf("%s is no full path on drive C, the only one", path)
	}
	real := m.drive()
	for part := range strings.SplitSeq(strings.ReplaceAll(rest, "/", `\`), `\`) {
		if part == "" || part == "." {
			continue
		}
		if part == ".." || strings.ContainsAny(part, ":*?\"<>|\x00") {
			return "", fmt.Errorf("%s: the file name, directory name, or volume label syntax is incorrect", path)
		}
		real = filepath.Join(real, sibling(real, part))
	}
	return real, nil
}

func cutDrive(path string) (rest string, ok bool) {
	if len(path) < 3 || !strings.EqualFold(path[:2], "c:") || path[2] != '\\' && path[2] != '/' {
		return "", false
	}
	return path[3:], true
}

// sibling returns the name that a folder has an entry by, whatever its case.
func sibling(dir, name string) string {
	if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
		return name
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return name
	}
	for _, e := range entries {
		if strings.EqualFold(e.Name(), name) {
			return e.Name()
		}
	}
	return name
}

// inside returns where the machine's first process sees a path of drive C.
func (m *guest) inside(path string) (string, error) {
	real, err := m.real(path)
	if err != nil {
		return "", err
	}
	return driveMount + strings.TrimPrefix(real, m.drive()), nil
}
