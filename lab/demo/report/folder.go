package report

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// markFile is in each report's folder and names the report's files, so that a later
// one replaces them and nothing else.
const markFile = ".labctl-report"

// Check says whether a report can be written to a folder: it must be new, empty, or
// hold an earlier report and nothing else. It changes nothing.
func Check(dir string) error {
	if dir == "" {
		return errors.New("write a report: no folder is named")
	}
	resolved, err := resolve(dir)
	if err != nil {
		return err
	}
	foreign, err := foreignIn(resolved)
	if err != nil {
		return fmt.Errorf("write a report to %s: %w", dir, err)
	}
	if len(foreign) > 0 {
		return fmt.Errorf("write a report to %s: it holds what is no report of labctl's (%s); name a new or empty folder", dir, strings.Join(foreign, ", "))
	}
	return tryIn(dir, existing(filepath.Dir(resolved)))
}

// resolve follows a symbolic link to the folder, so that the link stays.
func resolve(dir string) (string, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("write a report to %s: %w", dir, err)
	}
	resolved, err := filepath.EvalSymlinks(absolute)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(absolute); err == nil {
			return "", fmt.Errorf("write a report to %s: it is a link to what is not there", dir)
		}
		return absolute, nil
	}
	if err != nil {
		return "", fmt.Errorf("write a report to %s: %w", dir, err)
	}
	return resolved, nil
}

// foreignIn returns what in a folder is not of an earlier report, at most three.
func foreignIn(dir string) (foreign []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	mark, err := os.ReadFile(filepath.Join(dir, markFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ours := strings.Split(string(mark), "\n")
	for _, e := range entries {
		switch {
		case e.Name() == markFile && len(mark) > 0, e.Type().IsRegular() && slices.Contains(ours, e.Name()):
		case len(foreign) == 3:
			return append(foreign, "…"), nil
		default:
			foreign = append(foreign, e.Name())
		}
	}
	return foreign, nil
}

// existing is the nearest folder on the way up that is there.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// tryIn makes a folder beside the report's and removes it again.
func tryIn(dir, parent string) error {
	try, err := os.MkdirTemp(parent, ".labctl-report-*")
	if err != nil {
		return fmt.Errorf("write a report to %s: a folder cannot be made in %s: %w", dir, parent, err)
	}
	return os.Remove(try)
}

// store puts files into a folder, whole or not at all: they are written to a folder
// beside it, which then takes its place.
func store(dir string, files map[string][]byte) (err error) {
	resolved, err := resolve(dir)
	if err != nil {
		return err
	}
	parent := filepath.Dir(resolved)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("write a report to %s: %w", dir, err)
	}
	temp, err := os.MkdirTemp(parent, ".labctl-report-*")
	if err != nil {
		return fmt.Errorf("write a report to %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write a report to %s: %w", dir, err), os.RemoveAll(temp))
		}
	}()
	if err := fill(temp, files); err != nil {
		return err
	}
	return replace(resolved, temp)
}

// fill writes files for everybody to read: labctl runs as root, its user does not.
func fill(dir string, files map[string][]byte) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, markFile), []byte(strings.Join(names, "\n")+"\n"), 0o644)
}

// replace renames a folder to the place of another one, which is put back if that fails.
func replace(dir, temp string) error {
	old := temp + ".old"
	err := os.Rename(dir, old)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return os.Rename(temp, dir)
	case err != nil:
		return err
	}
	if err := os.Rename(temp, dir); err != nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	return os.RemoveAll(old)
}
