package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// What an image has before anybody configures it. The password "*" lets nobody
// in by one, and does not keep OpenSSH from taking a key, as "!" does without PAM.
const (
	imagePasswd = `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`
	imageShadow = "root:*:20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\nwww-data:*:20000:0:99999:7:::\nsshd:*:20000::::::\nnobody:*:20000:0:99999:7:::\n"
	imageGroup  = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nadm:x:4:\nsudo:x:27:\nshadow:x:42:\nwww-data:x:33:\nnogroup:x:65534:\n"
	// imageSSH is the server's configuration; the first value of a keyword counts.
	imageSSH = `Include /etc/ssh/sshd_config.d/*.conf
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
`
)

// makeSystemFiles writes what an image has of its own, at the first boot of a disk.
func makeSystemFiles() error {
	if err := os.Chmod("/root", 0o700); err != nil {
		return err
	}
	for _, dir := range []string{"/var/lib", "/var/log", "/var/cache", "/var/tmp", "/var/spool", "/run/lock", "/run/sshd", "/etc/ssh/sshd_config.d", "/etc/systemd/system", "/usr/local/bin", "/usr/local/sbin"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{"/var/run": "/run", "/var/lock": "/run/lock"} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := os.Chmod("/var/tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	const marker = "/var/lib/guestinit-image"
	if _, err := os.Stat(marker); err == nil {
		return nil
	}
	for _, f := range []struct {
		path, content string
		mode          os.FileMode
	}{
		{"/etc/passwd", imagePasswd, 0o644},
		{"/etc/shadow", imageShadow, 0o640},
		{"/etc/group", imageGroup, 0o644},
		{"/etc/gshadow", "", 0o640},
		{"/etc/hostname", "localhost\n", 0o644},
		{"/etc/hosts", "127.0.0.1 localhost\n", 0o644},
		{"/etc/resolv.conf", "", 0o644},
		{"/etc/fstab", "", 0o644},
		{"/etc/ssh/sshd_config", imageSSH, 0o644},
		{marker, "", 0o644},
	} {
		// Not written into what is there: that may be a link to elsewhere.
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := writeFile(f.path, []byte(f.content), f.mode); err != nil {
			return err
		}
	}
	return nil
}

// account is a line of /etc/passwd.
type account struct {
	uid, gid int
	home     string
}

func findAccount(name string) (account, error) {
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return account{}, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 7 || fields[0] != name {
			continue
		}
		uid, errU := strconv.Atoi(fields[2])
		gid, errG := strconv.Atoi(fields[3])
		return account{uid, gid, fields[5]}, errors.Join(errU, errG)
	}
	return account{}, fmt.Errorf("user %s: %w", name, fs.ErrNotExist)
}

// addUser makes a user of the seed, or adds to one that is there.
func addUser(u seedUser, uid int) error {
	if u.Name == "" || strings.ContainsAny(u.Name, ":/\n ") {
		return fmt.Errorf("%q is no user's name", u.Name)
	}
	if _, err := findAccount(u.Name); errors.Is(err, fs.ErrNotExist) {
		if err := makeAccount(u, uid); err != nil {
			return fmt.Errorf("user %s: %w", u.Name, err)
		}
	} else if err != nil {
		return err
	}
	return errors.Join(authorize(u.Name, u.AuthorizedKeys), permitSudo(u))
}

// permitSudo writes the user's rules.
func permitSudo(u seedUser) error {
	rules := sudoRules(u.Sudo)
	if len(rules) == 0 {
		return nil
	}
	text := ""
	for _, r := range rules {
		text += u.Name + " " + r + "\n"
	}
	if err := writeFile("/etc/sudoers.d/90-cloud-init-users", []byte(text), 0o440); err != nil {
		return err
	}
	if _, err := os.Stat("/usr/bin/sudo"); err != nil {
		return fmt.Errorf("user %s may use sudo, which this machine does not have: install sudo where the simulated host runs", u.Name)
	}
	return nil
}

func sudoRules(sudo any) []string {
	switch v := sudo.(type) {
	case string:
		return []string{v}
	case []any:
		var rules []string
		for _, r := range v {
			rules = append(rules, fmt.Sprint(r))
		}
		return rules
	}
	return nil
}

func makeAccount(u seedUser, uid int) error {
	shell := u.Shell
	if shell == "" {
		shell = "/bin/sh"
	}
	home := "/home/" + u.Name
	for path, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d:%s:%s:%s\n", u.Name, uid, uid, u.Gecos, home, shell),
		"/etc/shadow": fmt.Sprintf("%s:*:20000:0:99999:7:::\n", u.Name),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n", u.Name, uid),
	} {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(line)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	return os.Chown(home, uid, uid)
}

// authorize lets keys log in as a user.
func authorize(name string, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	a, err := findAccount(name)
	if err != nil {
		return err
	}
	dir := filepath.Join(a.home, ".ssh")
	path := filepath.Join(dir, "authorized_keys")
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(before)), "\n")
	for _, k := range keys {
		if k = strings.TrimSpace(k); !slices.Contains(lines, k) {
			lines = append(lines, k)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeFile(path, []byte(strings.TrimSpace(strings.Join(lines, "\n"))+"\n"), 0o600); err != nil {
		return err
	}
	return errors.Join(os.Chown(dir, a.uid, a.gid), os.Chown(path, a.uid, a.gid))
}
