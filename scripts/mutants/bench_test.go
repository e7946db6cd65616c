package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestABenchOfATreeThatIsNoneIsAnErrorAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	if b, err := newBench(t.Context(), filepath.Join(dir, "nowhere"), ""); err == nil || b != nil {
		t.Fatalf("got %v, %v", b, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
