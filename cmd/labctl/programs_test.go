package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheProgramForImagesIsFoundOrNamed(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "firstboot")
	t.Setenv("LABCTL_FIRSTBOOT", missing)
	if _, err := firstBoot(); err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("got %v, want an error that says where it is not, and what to do", err)
	}
	if err := os.WriteFile(missing, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err := firstBoot(); err != nil || path != missing {
		t.Errorf("got %s and %v, want what the environment names", path, err)
	}
	t.Setenv("LABCTL_FIRSTBOOT", "")
	dir, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := firstBoot(); err == nil || !strings.Contains(err.Error(), filepath.Join(filepath.Dir(dir), "l4lab-firstboot")) {
		t.Errorf("got %v, want it looked for beside this program", err)
	}
}
