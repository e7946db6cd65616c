package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"l4lab/e2e/mutants"
)

// specLimit is longer than the longest spec that a mutant names; a mutant may make it hang.
const specLimit = 4 * time.Minute

// bench is a copy of the tree in which mutants are tried one after the other, so
// that Go's build cache helps, and the suite of the tree as it is.
type bench struct {
	dir, tree, suite string
	// original has the programs of the tree as it is, bin those of the mutant.
	original, bin string
	// keep is where the suite's output and artifacts go; "": nowhere.
	keep string
	// objects are the generated files of bpf as they were.
	objects map[string][]byte
}

func newBench(ctx context.Context, source, keep string) (*bench, error) {
	dir, err := os.MkdirTemp("", "l4lab-mutants-")
	if err != nil {
		return nil, err
	}
	b := &bench{
		dir: dir, tree: filepath.Join(dir, "tree"), suite: filepath.Join(dir, "e2e.test"),
		original: filepath.Join(dir, "original"), bin: filepath.Join(dir, "bin"),
	}
	if err := b.prepare(ctx, source, keep); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// prepare copies the tree, and builds the programs and the suite as they are.
func (b *bench) prepare(ctx context.Context, source, keep string) (err error) {
	if err := copyTree(ctx, source, b.tree); err != nil {
		return err
	}
	if b.objects, err = generated(filepath.Join(b.tree, "bpf")); err != nil {
		return err
	}
	if keep != "" {
		if b.keep, err = filepath.Abs(keep); err != nil { // the suite runs elsewhere
			return err
		}
		if err := os.MkdirAll(b.keep, 0o755); err != nil {
			return err
		}
	}
	if err := b.build(ctx, b.original, "labctl", "lbagent"); err != nil {
		return err
	}
	return b.goTool(ctx, "test", "-c", "-vet=off", "-trimpath", "-o", b.suite, "./e2e")
}

func (b *bench) close() { _ = os.RemoveAll(b.dir) }

// copyTree copies what git tracks, and what is new and not ignored, as it lies there.
func copyTree(ctx context.Context, source, dest string) error {
	out, err := output(exec.CommandContext(ctx, "git", "-C", source, "ls-files", "-z", "--cached", "--others", "--exclude-standard"))
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		from, to := filepath.Join(source, name), filepath.Join(dest, name)
		info, err := os.Stat(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			return err
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, data, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}

// build builds programs as they ship into a folder.
func (b *bench) build(ctx context.Context, folder string, programs ...string) error {
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", folder + "/"}
	for _, p := range programs {
		args = append(args, "./cmd/"+p)
	}
	return b.goTool(ctx, args...)
}

// buildMutant makes bin anew: the programs as they were, and over them those that a
// mutant of this file changes.
func (b *bench) buildMutant(ctx context.Context, file string) error {
	if err := os.RemoveAll(b.bin); err != nil {
		return err
	}
	if err := os.CopyFS(b.bin, os.DirFS(b.original)); err != nil {
		return err
	}
	return b.build(ctx, b.bin, affected(file)...)
}

// affected are the programs that are to be built of a mutant. labctl asks the agent and
// has its program pushed; of what runs in lbagent it has but types, and the objects'
// bytes, which it does not load.
func affected(file string) []string {
	for _, room := range []string{"bpf/", "agent/", "cmd/lbagent/"} {
		if strings.HasPrefix(file, room) && !strings.HasPrefix(file, "agent/api/") {
			return []string{"lbagent"}
		}
	}
	return []string{"labctl", "lbagent"}
}

// goTool runs go in the copy, which is no repository.
func (b *bench) goTool(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	// Interrupted, go removes its own folder.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Dir = b.tree
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -buildvcs=false"))
	_, err := output(cmd)
	return err
}

// output runs a command; an error has what it printed.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// baseline has the tree as it is pass the specs that the mutants name: a spec that
// fails anyway catches nothing.
func (b *bench) baseline(ctx context.Context, all []mutants.Mutant) error {
	var specs []string
	for _, m := range all {
		specs = append(specs, m.Spec)
	}
	result, err := b.specs(ctx, b.original, "baseline", specs...)
	if err != nil {
		return err
	}
	for _, spec := range specs {
		switch s, found := result.find(spec); {
		case !found:
			return fmt.Errorf("the suite has no spec %q", spec)
		case s.State.String() != "passed":
			return fmt.Errorf("the tree as it is has the spec %q %s; no mutant can be judged by it:\n%s", spec, s.State, s.Failure.Message)
		}
	}
	return nil
}

// try tries one mutant and leaves the copy as it was.
func (b *bench) try(ctx context.Context, m mutants.Mutant) (v verdict) {
	begin := time.Now()
	defer func() { v.took = time.Since(begin) }()
	v.mutant = m
	undo, err := m.Apply(b.tree)
	if err != nil {
		return v.not(correct, "%v", err)
	}
	defer func() {
		if err := errors.Join(undo(), b.restore()); err != nil {
			v = v.not(look, "the copy could not be put back: %v", err)
		}
	}()
	if err := b.compile(ctx, m.File); err != nil {
		return v.not(correct, "the eBPF object does not build: %v", err)
	}
	if err := b.buildMutant(ctx, m.File); err != nil {
		return v.not(correct, "it does not build: %v", err)
	}
	result, err := b.specs(ctx, b.bin, m.Name, m.Spec)
	if err != nil {
		return v.not(look, "%v", err)
	}
	return result.judge(v)
}
