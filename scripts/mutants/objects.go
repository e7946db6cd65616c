package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// programs are the sources that bpf/gen.go compiles for Linux, under the name
// that its directives give each.
var programs = map[string]string{"lb.c": "LB", "decap_xdp.c": "DecapXDP", "decap_tc.c": "DecapTC"}

// include is a line that takes in a header of the tree.
var include = regexp.MustCompile(`(?m)^#include "([^"]+)"`)

// compile makes the Linux objects anew into which a file goes, with the directives of
// bpf/gen.go. Any other file goes into none.
func (b *bench) compile(ctx context.Context, file string) error {
	dir := filepath.Join(b.tree, "bpf")
	name, inside := strings.CutPrefix(file, "bpf/")
	if ext := filepath.Ext(name); !inside || ext != ".c" && ext != ".h" {
		return nil
	}
	compiled := 0
	for _, program := range slices.Sorted(maps.Keys(programs)) {
		sources := make(map[string]bool)
		if err := includes(dir, program, sources); err != nil {
			return err
		}
		if !sources[name] {
			continue
		}
		compiled++
		directive := fmt.Sprintf(`^//go:generate go tool bpf2go .*%s %s$`, programs[program], regexp.QuoteMeta(program))
		if err := b.goTool(ctx, "generate", "-run", directive, "./bpf"); err != nil {
			return err
		}
	}
	if compiled == 0 {
		return fmt.Errorf("no program for Linux includes %s", file)
	}
	now, err := generated(dir)
	if err != nil {
		return err
	}
	if maps.EqualFunc(now, b.objects, func(a, b []byte) bool { return string(a) == string(b) }) {
		return fmt.Errorf("the objects are the same as before: the change of %s means nothing to the compiler", file)
	}
	return nil
}

// includes enters a file of bpf and what it takes in, however deep.
func includes(dir, name string, into map[string]bool) error {
	if into[name] {
		return nil
	}
	into[name] = true
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	for _, match := range include.FindAllSubmatch(text, -1) {
		header := string(match[1])
		// A header's place is told from the folder of who includes it, or from bpf.
		if beside := filepath.Join(filepath.Dir(name), header); exists(filepath.Join(dir, beside)) {
			header = beside
		}
		if err := includes(dir, header, into); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// generated reads the files that bpf2go writes.
func generated(dir string) (map[string][]byte, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*_bpfel.*"))
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte, len(paths))
	for _, path := range paths {
		if files[path], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// restore puts the generated files back.
func (b *bench) restore() error {
	for path, data := range b.objects {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
