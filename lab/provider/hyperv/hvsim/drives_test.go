package hvsim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func FuzzPathsStayBelowTheirDrive(f *testing.F) {
	for _, path := range []string{`C:\l4lab\demo`, `C:\..\..\etc\passwd`, `c:/a/./b`, `\\?\C:\x`, "C:\\\x00", `C:\con`, `C:\a:b`, `D:\x`, `C:\é\É`, `C:\....\x`, "C:\\\xff"} {
		f.Add(path)
	}
	dir := f.TempDir()
	d := drives{filepath.Join(dir, "drives")}
	if err := os.MkdirAll(filepath.Join(d.dir, "c", "L4Lab"), 0o700); err != nil {
		f.Fatal(err)
	}
	root := filepath.Join(d.dir, "c")
	f.Fuzz(func(t *testing.T, path string) {
		real, err := d.real(path)
		if err != nil {
			return
		}
		if real != root && !strings.HasPrefix(real, root+string(filepath.Separator)) || real != filepath.Clean(real) {
			t.Errorf("%q leads to %q", path, real)
		}
		again, err := d.real(path)
		if err != nil || again != real {
			t.Errorf("%q leads to %q and then to %q, %v", path, real, again, err)
		}
		if !within(path, `C:\`) {
			t.Errorf("%q is not on its drive", path)
		}
	})
}

func TestWithinComparesNamesAndNotLetters(t *testing.T) {
	for _, c := range []struct {
		path, folder string
		want         bool
	}{
		{`C:\l4lab\demo\x`, `C:\l4lab\demo`, true},
		{`c:\L4LAB\DEMO`, `C:\l4lab\demo\`, true},
		{`C:\l4lab\demo2`, `C:\l4lab\demo`, false},
		{`D:\l4lab\demo\x`, `C:\l4lab\demo`, false},
		{`C:\l4lab\demo\..\x`, `C:\l4lab\demo`, false},
		{`C:\l4lab`, `C:\l4lab\demo`, false},
		{`C:\x`, `C:\`, true},
	} {
		if got := within(c.path, c.folder); got != c.want {
			t.Errorf("within(%s, %s) is %t", c.path, c.folder, got)
		}
	}
}
