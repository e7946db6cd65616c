package pscheck

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

//go:embed parse/package.json parse/package-lock.json parse/parse.mjs
var parserFiles embed.FS

// ErrNoParser: the grammar cannot be had on this machine.
var ErrNoParser = errors.New("the PowerShell grammar cannot be installed")

// Install puts the parser into a folder of the cache, named after the hash of
// its lock file, and returns that folder. After the first time nothing is
// fetched. The error matches ErrNoParser.
func Install(ctx context.Context, cache string) (string, error) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%w: %w (as root: scripts/install-deps.sh test)", ErrNoParser, err)
		}
	}
	names, err := fs.Glob(parserFiles, "parse/*")
	if err != nil {
		return "", err
	}
	files, sum := map[string][]byte{}, sha256.New()
	for _, name := range names {
		if files[name], err = parserFiles.ReadFile(name); err != nil {
			return "", err
		}
		sum.Write(files[name])
	}
	dir := filepath.Join(cache, fmt.Sprintf("l4lab-pscheck-%x", sum.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// Made elsewhere and renamed: what is there is whole, also when two tests install at once.
	fresh, err := os.MkdirTemp(cache, "l4lab-pscheck-new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(fresh, path.Base(name)), content, 0o644); err != nil {
			return "", err
		}
	}
	// The grammar is WebAssembly; install scripts, which would build it natively, are not wanted.
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	npm.Dir = fresh
	if output, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: npm ci: %w: %s", ErrNoParser, err, bytes.TrimSpace(output))
	}
	if err := os.Rename(fresh, dir); err != nil {
		if _, other := os.Stat(dir); other != nil {
			return "", err
		}
	}
	return dir, nil
}

// Parse returns the scripts in these files with their trees, in this order.
// Parser is what Install returned.
func Parse(ctx context.Context, parser string, files []string) ([]Script, error) {
	absolute := make([]string, len(files))
	for i, file := range files {
		var err error
		if absolute[i], err = filepath.Abs(file); err != nil {
			return nil, err
		}
	}
	node := exec.CommandContext(ctx, "node", append([]string{"parse.mjs"}, absolute...)...)
	node.Dir = parser
	var stderr bytes.Buffer
	node.Stderr = &stderr
	output, err := node.Output()
	if err != nil {
		return nil, fmt.Errorf("parse %d scripts with node: %w: %s", len(files), err, bytes.TrimSpace(stderr.Bytes()))
	}
	decoder := json.NewDecoder(bytes.NewReader(output))
	scripts := make([]Script, 0, len(files))
	for _, file := range absolute {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		s := Script{Name: name, Text: string(text), Root: new(Node)}
		if err := decoder.Decode(s.Root); err != nil {
			return nil, fmt.Errorf("read the syntax tree of %s: %w", file, err)
		}
		if s.Root.End > len(s.Text) {
			return nil, fmt.Errorf("the syntax tree of %s is longer than the file", file)
		}
		scripts = append(scripts, s)
	}
	return scripts, nil
}
