package guestinit

import (
	"errors"
	"io/fs"
	"os"

	"l4lab/lab/guest/seed/apply"
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
func makeSystemFiles(target apply.Machine) error {
	if err := os.Chmod("/root", 0o700); err != nil {
		return err
	}
	for _, dir := range []string{"/var/lib", "/var/log", "/var/cache", "/var/tmp", "/var/spool", "/run/lock", "/run/sshd", "/etc/ssh/sshd_config.d", "/etc/systemd/system", "/usr/local/bin", "/usr/local/sbin"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for link, to := range map[string]string{"/var/run": "/run", "/var/lock": "/run/lock"} {
		if err := os.Symlink(to, link); err != nil && !errors.Is(err, fs.ErrExist) {
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
		if err := target.WriteFile(apply.File{Path: f.path, Data: []byte(f.content), Mode: f.mode}); err != nil {
			return err
		}
	}
	return nil
}
