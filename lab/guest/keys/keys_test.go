package keys_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"l4lab/lab/guest/keys"
)

func TestAKeyIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	first, err := keys.Host(dir, "be3")
	if err != nil {
		t.Fatal(err)
	}
	again, err := keys.Host(dir, "be3")
	if err != nil || !bytes.Equal(first.Private(), again.Private()) {
		t.Errorf("the second look gives another key: %v", err)
	}
	other, err := keys.Host(dir, "be4")
	if err != nil || other.Public() == first.Public() {
		t.Errorf("another node has the same key: %v", err)
	}
	if !strings.HasPrefix(first.Public(), "ssh-ed25519 AAAA") || !strings.HasPrefix(first.Fingerprint(), "SHA256:") {
		t.Errorf("public half is %q, fingerprint %q", first.Public(), first.Fingerprint())
	}
	st, err := os.Stat(filepath.Join(dir, keys.Folder, "host-be3"))
	if err != nil || runtime.GOOS != "windows" && st.Mode().Perm() != 0o600 {
		t.Errorf("its file has mode %v, %v", st.Mode(), err)
	}
}

func TestOfManyWhoMakeAKeyAtOnceOneWins(t *testing.T) {
	dir := t.TempDir()
	made := make([]string, 16)
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() {
			k, err := keys.Client(dir)
			if err != nil {
				t.Error(err)
				return
			}
			made[i] = k.Public()
		})
	}
	wg.Wait()
	for _, public := range made {
		if public != made[0] {
			t.Fatalf("two keys were made: %s and %s", public, made[0])
		}
	}
	if entries, err := os.ReadDir(filepath.Join(dir, keys.Folder)); err != nil || len(entries) != 1 {
		t.Errorf("drafts were left: %v, %v", entries, err)
	}
}

func TestAKeyPrintedShowsNoSecret(t *testing.T) {
	k, err := keys.Client(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "key", k)
	secret := strings.Split(string(k.Private()), "\n")[1]
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s", k, k, k, k), fmt.Sprintf("%v", struct{ K keys.Key }{k}), log.String()} {
		if strings.Contains(text, secret) || strings.Contains(text, "PRIVATE") || !strings.Contains(text, "ssh-ed25519") {
			t.Errorf("printed as %q", text)
		}
	}
}

func TestAKeyThatIsUnsafeOrDamagedIsAnError(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(path string) error
	}{
		{"others can read it", func(p string) error { return os.Chmod(p, 0o644) }},
		{"it is empty", func(p string) error { return os.WriteFile(p, nil, 0o600) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("modes are not Windows'")
			}
			dir := t.TempDir()
			if _, err := keys.Client(dir); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, keys.Folder, "client")
			if err := c.damage(path); err != nil {
				t.Fatal(err)
			}
			if _, err := keys.Client(dir); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("Client = %v, want an error with the path", err)
			}
		})
	}
}

func TestANodesNameThatLeavesTheFolderIsRefused(t *testing.T) {
	for _, name := range []string{"", "..", "../x", "a/b", "-x", "a b"} {
		if _, err := keys.Host(t.TempDir(), name); err == nil {
			t.Errorf("Host(%q) went well", name)
		}
	}
}
