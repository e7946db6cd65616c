package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// compiler is the one that makes the objects (bpf/gen.go).
const compiler = "clang-19"

// target is a program as bpf/gen.go compiles it.
type target struct {
	source string
	flags  []string
}

// The programs of each system. TC is Linux's alone.
var (
	linuxXDP = []target{{"lb.c", nil}, {"decap_xdp.c", nil}}
	linuxTC  = []target{{"decap_tc.c", nil}}
	windows  = []target{
		{"lb.c", []string{"-DPLATFORM_WINDOWS"}},
		{"decap_xdp.c", []string{"-DPLATFORM_WINDOWS"}},
		{"lb.c", []string{"-DPLATFORM_WINDOWS", "-DPLATFORM_WINDOWS_XDP"}},
	}
)

// region is a stretch of a file.
type region struct {
	file   string
	number int
}

// tree is the C source, and a copy of it with a mark in each region.
type tree struct {
	sources map[string]source
	copied  string
}

// readTree reads the .c and .h files under a folder, and writes the marked copy to
// another one.
func readTree(folder, copied string) (*tree, error) {
	t := &tree{sources: map[string]source{}, copied: copied}
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || (filepath.Ext(path) != ".c" && filepath.Ext(path) != ".h") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		s := readSource(name, string(text))
		t.sources[name] = s
		to := filepath.Join(copied, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return os.WriteFile(to, []byte(s.marked), 0o600)
	})
	if err == nil && len(t.sources) == 0 {
		err = fmt.Errorf("no C source under %s", folder)
	}
	return t, err
}

var marks = regexp.MustCompile(`(?m)^#pragma l4lab_region ("[^"]*") (\d+)$`)

// live asks the preprocessor which regions the targets are made of.
func (t *tree) live(targets ...target) (map[region]bool, error) {
	found := map[region]bool{}
	for _, target := range targets {
		command := exec.Command(compiler, slices.Concat([]string{"-E", "-target", "bpfel", "-Wno-unknown-pragmas"}, target.flags, []string{target.source})...)
		command.Dir = t.copied
		var complaint bytes.Buffer
		command.Stderr = &complaint
		out, err := command.Output()
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w\n%s", compiler, target.source, err, complaint.Bytes())
		}
		for _, m := range marks.FindAllSubmatch(out, -1) {
			file, err := strconv.Unquote(string(m[1]))
			if err != nil {
				return nil, fmt.Errorf("%s: mark %s: %w", target.source, m[0], err)
			}
			number, err := strconv.Atoi(string(m[2]))
			if err != nil {
				return nil, fmt.Errorf("%s: mark %s: %w", target.source, m[0], err)
			}
			found[region{file, number}] = true
		}
	}
	return found, nil
}

// tally counts lines: those compiled for Linux, and those of them that are compiled
// for Windows too.
type tally struct{ linux, both int }

// share is a percentage.
func (t tally) share() float64 { return 100 * float64(t.both) / float64(t.linux) }

// count counts each file's lines, and all of them under "".
func (t *tree) count(linux, windows map[region]bool) map[string]tally {
	counted := map[string]tally{}
	for name, s := range t.sources {
		for _, l := range s.lines {
			at := region{name, l.region}
			if !l.code || !linux[at] {
				continue
			}
			for _, key := range []string{name, ""} {
				c := counted[key]
				c.linux++
				if windows[at] {
					c.both++
				}
				counted[key] = c
			}
		}
	}
	return counted
}

// report is what there is to say.
type report struct {
	// files are counted over all Linux programs; all and xdp are the sums over
	// all of them and over the XDP programs.
	files    map[string]tally
	all, xdp tally
}

// measure counts the C source under a folder.
func measure(folder string) (report, error) {
	copied, err := os.MkdirTemp("", "sharing")
	if err != nil {
		return report{}, err
	}
	defer func() { _ = os.RemoveAll(copied) }() // a copy in a temporary folder
	t, err := readTree(folder, copied)
	if err != nil {
		return report{}, err
	}
	onXDP, err := t.live(linuxXDP...)
	if err != nil {
		return report{}, err
	}
	onTC, err := t.live(linuxTC...)
	if err != nil {
		return report{}, err
	}
	onWindows, err := t.live(windows...)
	if err != nil {
		return report{}, err
	}
	r := report{xdp: t.count(onXDP, onWindows)[""]}
	maps.Copy(onTC, onXDP)
	r.files = t.count(onTC, onWindows)
	r.all = r.files[""]
	delete(r.files, "")
	return r, nil
}

// names are the files, those with the most lines of Linux alone first.
func (r report) names() []string {
	return slices.SortedFunc(maps.Keys(r.files), func(a, b string) int {
		only := func(name string) int { return r.files[name].linux - r.files[name].both }
		return cmp.Or(cmp.Compare(only(b), only(a)), cmp.Compare(a, b))
	})
}
