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
// when set; /var/lib/labctl for root; else labctl under $XDG_STATE_HOME
// (~/.local/state).
func DefaultRoot() (string, error) {
	if dir := os.Getenv("LABCTL_STATE_DIR"); dir != "" {
		return filepath.Abs(dir)
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

// NewStore returns the store in a folder, which need not exist yet.
func NewStore(root string) Store { return Store{root} }

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
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
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
