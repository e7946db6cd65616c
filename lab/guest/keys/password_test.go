package keys

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAPasswordIsMadeUpOnceAndKeptClosed(t *testing.T) {
	dir := t.TempDir()
	first, err := Password(dir, "windows-password")
	if err != nil {
		t.Fatal(err)
	}
	again, err := Password(dir, "windows-password")
	if err != nil || again != first || len(first) < 20 {
		t.Errorf("another one, or a short one (%d characters): %v", len(first), err)
	}
	if st, err := os.Stat(filepath.Join(dir, Folder, "windows-password")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	// Windows' complexity rule: three kinds of characters.
	if strings.ToLower(first) == first || strings.ToUpper(first) == first || !strings.Contains(first, "-") {
		t.Error("it lacks capitals, small letters or a dash")
	}
}

func TestAServersCertificateIsMadeOnceForItsNode(t *testing.T) {
	dir := t.TempDir()
	first, err := Server(dir, "be1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := Server(dir, "be1")
	if err != nil || again.Fingerprint() != first.Fingerprint() {
		t.Errorf("another one: %v", err)
	}
	other, err := Server(dir, "be2")
	if err != nil || other.Fingerprint() == first.Fingerprint() {
		t.Errorf("two nodes share one: %v", err)
	}
	leaf := first.Leaf()
	// WinRM takes a certificate for its listener whose common name is the listener's
	// host name and that is for server authentication.
	if leaf.Subject.CommonName != "be1" || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("it is for %s, %v", leaf.Subject.CommonName, leaf.ExtKeyUsage)
	}
	if now := time.Now(); leaf.NotBefore.After(now.Add(-24*time.Hour)) || leaf.NotAfter.Before(now.AddDate(5, 0, 0)) {
		t.Errorf("it is valid from %s to %s", leaf.NotBefore, leaf.NotAfter)
	}
	path := filepath.Join(dir, Folder, "tls-be1")
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, first); !strings.Contains(text, first.Fingerprint()) || len(text) > 100 {
			t.Errorf("%s prints %.200s", verb, text)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Server(dir, "be1"); err == nil || !strings.Contains(err.Error(), "can be read by others") {
		t.Errorf("a key that others can read: %v", err)
	}
	if _, err := Server(dir, "../be1"); err == nil {
		t.Error("a name that leads elsewhere was taken")
	}
}
