package apply_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/lab/guest/seed/apply"
)

// tree is a machine in a folder.
type tree struct {
	apply.Machine
	t      *testing.T
	log    bytes.Buffer
	name   string
	owners map[string]string
}

func newTree(t *testing.T, files map[string]string) *tree {
	t.Helper()
	m := &tree{t: t, owners: map[string]string{}}
	m.Machine = apply.Machine{
		Root: t.TempDir(), Log: slog.New(slog.NewTextHandler(&m.log, nil)),
		SetName: func(name []byte) error { m.name = string(name); return nil },
		Chown: func(path string, uid, gid int) error {
			m.owners[strings.TrimPrefix(path, m.Root)] = fmt.Sprintf("%d:%d", uid, gid)
			return nil
		},
	}
	all := map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/bash\n",
		"/etc/shadow": "root:!:20000:0:99999:7:::\nalice:$6$salt$hash:20000:0:99999:7:::\n",
		"/etc/group":  "root:x:0:\nalice:x:1000:\nstaff:x:1001:\n",
	}
	maps.Copy(all, files)
	for path, text := range all {
		m.put(path, text)
	}
	return m
}

func (m *tree) put(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.Root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		m.t.Fatal(err)
	}
}

// read returns a file's text, and how its absence shows.
func (m *tree) read(path string) string {
	text, err := os.ReadFile(filepath.Join(m.Root, path))
	if err != nil {
		return "(none)"
	}
	return string(text)
}

func (m *tree) mode(path string) fs.FileMode {
	m.t.Helper()
	st, err := os.Lstat(filepath.Join(m.Root, path))
	if err != nil {
		m.t.Fatal(err)
	}
	return st.Mode()
}

// list returns all files.
func (m *tree) list() []string {
	m.t.Helper()
	var files []string
	err := filepath.WalkDir(m.Root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, strings.TrimPrefix(path, m.Root))
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return files
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is\n%v\nwant\n%v", what, got, want)
	}
}

func TestAFileIsWrittenOnceAndReplacedWhole(t *testing.T) {
	m := newTree(t, map[string]string{"/etc/elsewhere": "not to be touched"})
	f := apply.File{Path: "/etc/a/b.conf", Data: []byte("secret text\n"), Mode: 0o600}
	for range 2 {
		if err := m.WriteFile(f); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "the file", m.read(f.Path), "secret text\n")
	same(t, "its mode", m.mode(f.Path), 0o600)
	same(t, "how often it was written", strings.Count(m.log.String(), "wrote /etc/a/b.conf"), 1)
	if strings.Contains(m.log.String(), "secret") {
		t.Errorf("the log shows what is in it: %s", &m.log)
	}

	link := filepath.Join(m.Root, "/etc/link")
	if err := os.Symlink("elsewhere", link); err != nil {
		t.Fatal(err)
	}
	// What a call that was killed left is no obstacle.
	m.put("/etc/.link.new", "half")
	if err := m.WriteFile(apply.File{Path: "/etc/link", Data: []byte("x"), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	same(t, "what the link led to", m.read("/etc/elsewhere"), "not to be touched")
	same(t, "what was the link", m.mode("/etc/link"), 0o644)
	same(t, "the draft", m.read("/etc/.link.new"), "(none)")

	f.Mode = 0o644
	if err := m.WriteFile(f); err != nil {
		t.Fatal(err)
	}
	same(t, "its mode after a change of that alone", m.mode(f.Path), 0o644)
}

func TestAFileThatCannotBeWrittenLeavesNothing(t *testing.T) {
	m := newTree(t, map[string]string{"/etc/folder/file": ""})
	before := len(m.list())
	for _, path := range []string{"relative", "/etc/folder", "/etc/passwd/file"} {
		err := m.WriteFile(apply.File{Path: path, Data: []byte("x"), Mode: 0o644})
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want an error that names it", path, err)
		}
	}
	same(t, "the number of files", len(m.list()), before)
}

func TestAHostnameIsSetNowAndForLater(t *testing.T) {
	m := newTree(t, nil)
	if err := m.SetHostname("be3"); err != nil {
		t.Fatal(err)
	}
	same(t, "the name now", m.name, "be3")
	same(t, "/etc/hostname", m.read("/etc/hostname"), "be3\n")
	same(t, "/etc/hosts", m.read("/etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 be3\n")
	for _, name := range []string{"", "be3\n10.0.0.1 evil"} {
		if err := m.SetHostname(name); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
	m.SetName = func([]byte) error { return fs.ErrPermission }
	if err := m.SetHostname("be4"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, want sethostname's error", err)
	}
}

func TestUsersAreMadeAndLetIn(t *testing.T) {
	users := []apply.User{
		{Name: "root", LockPassword: true, AuthorizedKeys: []string{"ssh-ed25519 AAAA labctl\n"}},
		{Name: "alice", LockPassword: true, Shell: "/bin/zsh", AuthorizedKeys: []string{"ssh-ed25519 BBBB labctl"}},
		{Name: "l4lab", LockPassword: true, Shell: "/bin/bash", Comment: "The lab", Sudo: []string{"ALL=(ALL) NOPASSWD:ALL"}, AuthorizedKeys: []string{"ssh-ed25519 AAAA labctl"}},
		{Name: "staff", Sudo: []string{"ALL=(ALL) ALL"}},
	}
	m := newTree(t, map[string]string{"/usr/bin/sudo": "", "/home/alice/.ssh/authorized_keys": "ssh-rsa CCCC her own"})
	if err := m.AddUsers(users); err != nil {
		t.Fatal(err)
	}
	same(t, "passwd", m.read("/etc/passwd"), `root:x:0:0:root:/root:/bin/bash
alice:x:1000:1000::/home/alice:/bin/bash
l4lab:x:1002:1002:The lab:/home/l4lab:/bin/bash
staff:x:1001:1001::/home/staff:/bin/sh
`)
	same(t, "shadow, without any password", m.read("/etc/shadow"), `root:*:20000:0:99999:7:::
alice:*:20000:0:99999:7:::
l4lab:*:20000:0:99999:7:::
staff:*:20000:0:99999:7:::
`)
	same(t, "group", m.read("/etc/group"), "root:x:0:\nalice:x:1000:\nstaff:x:1001:\nl4lab:x:1002:\n")
	same(t, "root's keys", m.read("/root/.ssh/authorized_keys"), "ssh-ed25519 AAAA labctl\n")
	same(t, "alice's keys", m.read("/home/alice/.ssh/authorized_keys"), "ssh-rsa CCCC her own\nssh-ed25519 BBBB labctl\n")
	same(t, "the rules", m.read("/etc/sudoers.d/90-l4lab"), "l4lab ALL=(ALL) NOPASSWD:ALL\nstaff ALL=(ALL) ALL\n")
	for path, mode := range map[string]fs.FileMode{
		"/etc/sudoers.d/90-l4lab": 0o440, "/root/.ssh/authorized_keys": 0o600, "/etc/shadow": 0o640,
		"/root/.ssh": fs.ModeDir | 0o700, "/home/l4lab": fs.ModeDir | 0o755, "/home/l4lab/.ssh": fs.ModeDir | 0o700,
	} {
		same(t, "the mode of "+path, m.mode(path), mode)
	}
	for path, owner := range map[string]string{
		"/home/l4lab": "1002:1002", "/home/l4lab/.ssh": "1002:1002", "/home/l4lab/.ssh/.authorized_keys.new": "1002:1002", "/home/alice/.ssh": "1000:1000",
	} {
		same(t, "the owner of "+path, m.owners[path], owner)
	}
	text := m.log.String()
	for _, secret := range []string{"$6$", "AAAA"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log holds %q:\n%s", secret, text)
		}
	}
}

// TestWhatWasCutOffIsMadeGood stops after each change in turn, as a kill would.
func TestWhatWasCutOffIsMadeGood(t *testing.T) {
	user := apply.User{Name: "l4lab", LockPassword: true, AuthorizedKeys: []string{"ssh-ed25519 AAAA labctl"}}
	whole := newTree(t, nil)
	if err := whole.AddUsers([]apply.User{user}); err != nil {
		t.Fatal(err)
	}
	changes := strings.Count(whole.log.String(), "\n")
	if changes < 5 {
		t.Fatalf("there are %d changes:\n%s", changes, &whole.log)
	}
	for n := range changes {
		m := newTree(t, nil)
		log := m.Log
		m.Log = slog.New(&cutOff{left: n})
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("change %d does not come", n)
				}
			}()
			_ = m.AddUsers([]apply.User{user})
		}()
		m.Log = log
		if err := m.AddUsers([]apply.User{user}); err != nil {
			t.Errorf("after change %d: %v", n, err)
		}
		for _, path := range []string{"/etc/passwd", "/etc/shadow", "/etc/group", "/home/l4lab/.ssh/authorized_keys"} {
			same(t, fmt.Sprintf("%s after change %d", path, n), m.read(path), whole.read(path))
		}
		same(t, "the owner of the home", m.owners["/home/l4lab"], "1002:1002")
	}
}

func TestUsersThatCannotBeAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		user apply.User
		want string
	}{
		"a name with a colon":                  {apply.User{Name: "a:b"}, "name"},
		"no name":                              {apply.User{}, "name"},
		"a name like an option":                {apply.User{Name: "-a"}, "name"},
		"a shell that adds a line":             {apply.User{Name: "bob", Shell: "/bin/sh\nevil::0:0::/:/bin/sh"}, "shell"},
		"a rule that adds a line":              {apply.User{Name: "bob", Sudo: []string{"ALL\nall ALL"}}, "sudo"},
		"sudo on a machine that does not have": {apply.User{Name: "bob", Sudo: []string{"ALL"}}, apply.ErrNoSudo.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTree(t, nil)
			err := m.AddUsers([]apply.User{c.user, {Name: "good"}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
			if !strings.Contains(m.read("/etc/passwd"), "good:x:") {
				t.Error("it keeps another user from being made")
			}
			if strings.Contains(m.read("/etc/passwd"), "evil") {
				t.Error("a line is added")
			}
		})
	}
}

func TestAnAccountWithoutAnyPasswordIsLocked(t *testing.T) {
	m := newTree(t, map[string]string{"/etc/passwd": "bob::1000:1000::/home/bob:/bin/sh\n"})
	if err := m.AddUsers([]apply.User{{Name: "bob", LockPassword: true}}); err != nil {
		t.Fatal(err)
	}
	same(t, "passwd", m.read("/etc/passwd"), "bob:x:1000:1000::/home/bob:/bin/sh\n")
	if !strings.Contains(m.read("/etc/shadow"), "\nbob:*:") {
		t.Errorf("shadow is %s", m.read("/etc/shadow"))
	}
}

func TestTheSeedsHostKeysAreTheOnlyOnes(t *testing.T) {
	m := newTree(t, map[string]string{"/etc/ssh/ssh_host_rsa_key": "old", "/etc/ssh/ssh_host_rsa_key.pub": "old", "/etc/ssh/moduli": ""})
	keys := map[string]string{"ed25519_private": "-----BEGIN-----\nsecret", "ed25519_public": "ssh-ed25519 AAAA"}
	if err := errors.Join(m.InstallHostKeys(keys), m.RemoveOtherHostKeys(keys)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(m.Root, "/etc/ssh"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	same(t, "the folder", strings.Join(names, " "), "moduli ssh_host_ed25519_key ssh_host_ed25519_key.pub")
	same(t, "the key", m.read("/etc/ssh/ssh_host_ed25519_key"), "-----BEGIN-----\nsecret\n")
	same(t, "its mode", m.mode("/etc/ssh/ssh_host_ed25519_key"), 0o600)
	if strings.Contains(m.log.String(), "secret") {
		t.Errorf("the log shows the key: %s", &m.log)
	}
	for _, name := range []string{"../../passwd_private", "rsa", "rsa_hidden", "_private"} {
		if err := m.InstallHostKeys(map[string]string{name: "x"}); err == nil {
			t.Errorf("a key of the name %q is installed", name)
		}
	}
}
