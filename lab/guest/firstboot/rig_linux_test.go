package firstboot

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"l4lab/lab/guest/keys"
	"l4lab/lab/guest/seed"
	"l4lab/lab/guest/seed/apply"
)

// rig is a machine in a folder, with block devices that are files.
type rig struct {
	Boot
	t    *testing.T
	log  *watched
	ran  []string
	name string
}

// watched is a log that calls watch with each line, before the next goes on.
type watched struct {
	bytes.Buffer
	watch func(line string)
}

func (w *watched) Write(line []byte) (int, error) {
	n, err := w.Buffer.Write(line)
	if w.watch != nil {
		w.watch(string(line))
	}
	return n, err
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, log: &watched{}}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	r.Boot = Boot{
		Machine: apply.Machine{
			Root: filepath.Join(dir, "root"), Log: log,
			SetName: func(name []byte) error { r.name = string(name); return nil },
			Chown:   func(string, int, int) error { return nil },
		},
		Log: log, Devices: filepath.Join(dir, "sys"), Nodes: filepath.Join(dir, "dev"), Wait: time.Millisecond,
		Run: func(_ context.Context, argv []string) error {
			r.ran = append(r.ran, strings.Join(argv, " "))
			return nil
		},
		Sync: func() {},
	}
	for path, text := range map[string]string{
		"/etc/passwd":                    "root:x:0:0:root:/root:/bin/bash\n",
		"/etc/shadow":                    "root:!:20000:0:99999:7:::\n",
		"/etc/group":                     "root:x:0:\n",
		"/etc/ssh/ssh_host_rsa_key":      "the image's",
		"/usr/bin/sudo":                  "",
		"/etc/systemd/network/x.network": "another's",
	} {
		put(t, filepath.Join(r.Machine.Root, path), []byte(text))
	}
	r.device("vda", "8", make([]byte, 40*1024))
	r.device("loop0", "0", nil)
	return r
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) device(name, size string, data []byte) {
	r.t.Helper()
	put(r.t, filepath.Join(r.Nodes, name), data)
	put(r.t, filepath.Join(r.Devices, name, "size"), []byte(size+"\n"))
}

func (r *rig) read(path string) string {
	text, err := os.ReadFile(filepath.Join(r.Machine.Root, path))
	if err != nil {
		return "(none)"
	}
	return string(text)
}

// files returns the text of all of the machine's files.
func (r *rig) files() map[string]string {
	r.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(r.Machine.Root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			path = strings.TrimPrefix(path, r.Machine.Root)
			files[path] = r.read(path)
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return files
}

// discs makes seeds of one lab, whose keys stay the same.
func discs(t *testing.T) (of func(change func(*seed.Seed)) []byte, host keys.Key) {
	t.Helper()
	dir := t.TempDir()
	login, err := keys.Client(dir)
	if err != nil {
		t.Fatal(err)
	}
	host, err = keys.Host(dir, "be3")
	if err != nil {
		t.Fatal(err)
	}
	return func(change func(*seed.Seed)) []byte {
		s := seed.Seed{
			Hostname: "be3", User: seed.Root, Login: login, HostKey: host, MTU: 1400,
			MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 1, 0x1e}, Address: netip.MustParsePrefix("20.1.1.30/24"),
			Files:        []seed.File{{Path: "/etc/l4lab/note", Content: "hello\n", Permissions: "0600"}},
			BootCommands: [][]string{{"modprobe", "cls_bpf"}},
		}
		if change != nil {
			change(&s)
		}
		var disc bytes.Buffer
		if err := seed.Write(&disc, s); err != nil {
			t.Fatal(err)
		}
		return disc.Bytes()
	}, host
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is\n%v\nwant\n%v", what, got, want)
	}
}
