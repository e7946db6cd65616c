// Package state remembers which labs there are and what each owns: one folder
// a lab, holding the topology as it was asked for, the list of owned things
// (written before each is made), a lock, and the nodes' own folders.
//
// Down works from here and from the marks on the things themselves, never from
// the user's file, which may have been edited or deleted since.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"l4lab/topology"
)

// Version is the layout of the state file. A file of another version is
// refused as damaged: down still works, by ownership marks.
const Version = 1

// Phase is where a lab stands.
type Phase string

// The phases of a lab. A lab that is found in a phase other than Up was left
// there by a run that was killed.
const (
	Creating Phase = "creating"
	Up       Phase = "up"
	Removing Phase = "removing"
)

// State is what is remembered of a lab.
type State struct {
	Version  int               `json:"version"`
	Name     string            `json:"name"`
	Provider string            `json:"provider"`
	Phase    Phase             `json:"phase"`
	Changed  time.Time         `json:"changed"`
	Topology topology.Topology `json:"topology"`
	// WasUp says that the lab has been up since it was made: what a failed up
	// of such a lab leaves is worth keeping.
	WasUp bool `json:"wasUp"`
	// Programs are the SHA-256 of the agent's binaries on the nodes, by their operating systems.
	Programs map[topology.OS]string `json:"programs,omitempty"`
	// Owned are the names of the things that the lab made or is about to make.
	Owned []string `json:"owned"`
}

// ErrDamaged is matched by errors about a state file that cannot be read as one.
var ErrDamaged = errors.New("state file is damaged")

// ErrNone is what Load returns for a lab that has no state.
var ErrNone = errors.New("no such lab")

// Store is a folder of labs.
type Store struct{ root string }

// DefaultRoot returns the folder where labs are remembered: $LABCTL_STATE_DIR
// when set; on Windows labctl under %LOCALAPPDATA%, which its user alone can
// read; /var/lib/labctl for root; else labctl under $XDG_STATE_HOME (~/.local/state).
func DefaultRoot() (string, error) {
	if dir := os.Getenv("LABCTL_STATE_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	if runtime.GOOS == "windows" {
		dir, err := os.UserCacheDir() // %LOCALAPPDATA%
		if err != nil {
			return "", fmt.Errorf("find the folder for state: %w; set LABCTL_STATE_DIR", err)
		}
		return filepath.Join(dir, "labctl"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/labctl", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "labctl"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the folder for state: %w; set LABCTL_STATE_DIR", err)
	}
	return filepath.Join(home, ".local", "state", "labctl"), nil
}

// NewStore returns the store in a folder, which need not exist yet. Symbolic
// links in its path are resolved: the kernel names a process's program by its
// real path, and that is how a lab knows its processes.
func NewStore(root string) Store { return Store{resolve(root)} }

func resolve(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		return real
	}
	if parent := filepath.Dir(path); parent != path {
		return filepath.Join(resolve(parent), filepath.Base(path))
	}
	return path
}

// markerFile says that a folder is a lab's. Nothing is ever removed from a
// folder that has none, whatever it is called.
const markerFile = ".labctl"

// lockFile is what Lock locks.
const lockFile = "lock"

// ErrNotALab is matched by errors about a folder that bears a lab's name and
// is none.
var ErrNotALab = errors.New("the folder is no lab's")

// makeDir makes a lab's folder with its marker in one step, or checks that the
// one that is there is a lab's.
func (s Store) makeDir(lab string) error {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return fmt.Errorf("make the folder for labs: %w", err)
	}
	if _, err := os.Lstat(s.Dir(lab)); errors.Is(err, fs.ErrNotExist) {
		next, err := os.MkdirTemp(s.root, ".new-*")
		if err != nil {
			return fmt.Errorf("make the folder of lab %s: %w", lab, err)
		}
		defer os.RemoveAll(next)
		if err := s.mark(next, lab); err != nil {
			return err
		}
		// Fails when another process was faster: then its folder is checked.
		if err := os.Rename(next, s.Dir(lab)); err == nil {
			return nil
		}
	}
	if s.isBare(lab) {
		return s.mark(s.Dir(lab), lab)
	}
	return s.check(lab)
}

func (s Store) mark(dir, lab string) error {
	if err := os.WriteFile(filepath.Join(dir, markerFile), []byte("made by labctl\n"), 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make the folder of lab %s: %w", lab, err)
	}
	return nil
}

// check returns ErrNotALab for a folder that is there and is no lab's.
func (s Store) check(lab string) error {
	if !s.IsLab(lab) {
		return fmt.Errorf("%w: %s; use another --name, or another LABCTL_STATE_DIR", ErrNotALab, s.Dir(lab))
	}
	return nil
}

// IsLab says whether a lab of that name has its folder here.
func (s Store) IsLab(lab string) bool {
	st, err := os.Lstat(filepath.Join(s.Dir(lab), markerFile))
	return err == nil && st.Mode().IsRegular() || s.isBare(lab)
}

// isBare says that a folder holds nothing but a lock: what a labctl leaves that
// was killed while it removed the folder.
func (s Store) isBare(lab string) bool {
	entries, err := os.ReadDir(s.Dir(lab))
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != lockFile })
}

// Remove removes a lab's folder. The marker goes with the last that is in it:
// what a labctl leaves that is killed meanwhile is still known as a lab's. The
// caller holds the lock.
func (s Store) Remove(lab string) error {
	entries, err := os.ReadDir(s.Dir(lab))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the folder of lab %s: %w", lab, err)
	}
	for _, e := range entries {
		if e.Name() == markerFile || e.Name() == lockFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.Dir(lab), e.Name())); err != nil {
			return fmt.Errorf("remove the folder of lab %s: %w", lab, err)
		}
	}
	if err := os.RemoveAll(s.Dir(lab)); err != nil {
		return fmt.Errorf("remove the folder of lab %s: %w", lab, err)
	}
	return nil
}

// Root returns the store's folder.
func (s Store) Root() string { return s.root }

// Dir returns a lab's folder.
func (s Store) Dir(lab string) string { return filepath.Join(s.root, lab) }

// NodeDir returns a machine's folder under its lab's.
func NodeDir(labDir, node string) string { return filepath.Join(labDir, "nodes", node) }

func (s Store) file(lab string) string { return filepath.Join(s.Dir(lab), "state.json") }

// Load reads a lab's state: ErrNone when it has none, an error that matches
// ErrDamaged when there is one that cannot be read.
func (s Store) Load(lab string) (State, error) {
	data, err := os.ReadFile(s.file(lab))
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("%w: %s", ErrNone, lab)
	}
	if err != nil {
		return State{}, fmt.Errorf("read the state of lab %s: %w", lab, err)
	}
	var st State
	if err := json.Unmarshal(data, &st); err != nil {
		return State{}, fmt.Errorf("%w: %s: %v; `labctl down --name %s` removes the lab by its ownership marks", ErrDamaged, s.file(lab), err, lab)
	}
	if st.Version != Version || st.Name != lab {
		return State{}, fmt.Errorf("%w: %s is of version %d for lab %q, expected version %d for %q; `labctl down --name %s` removes the lab by its ownership marks",
			ErrDamaged, s.file(lab), st.Version, st.Name, Version, lab, lab)
	}
	return st, nil
}

// Save writes a lab's state whole or not at all.
func (s Store) Save(st State) error {
	st.Version, st.Changed = Version, time.Now().UTC()
	slices.Sort(st.Owned)
	st.Owned = slices.Compact(st.Owned)
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state of lab %s: %w", st.Name, err)
	}
	if err := WriteFile(s.file(st.Name), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("save the state of lab %s: %w", st.Name, err)
	}
	return nil
}

// Labs returns the names of all labs that have a folder, sorted; what is no
// lab's folder is passed over.
func (s Store) Labs() ([]string, error) {
	entries, err := os.ReadDir(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && s.IsLab(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// WriteFile replaces a file in one step: a reader sees the old content or the new.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
