package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// stateVersion is the form of the state file that this code writes.
const stateVersion = 1

// state is what is desired, and where the numbering stands.
type state struct {
	// Mode is the default for services that name none.
	Mode     string
	Services map[uint32]api.Service
	// NextBackend and NextSlot are where numbers.next stood, the others what
	// numbers.former was.
	NextBackend, NextSlot uint32
	FormerBackends        []former[backendOwner]
	FormerSlots           []former[slotOwner]
}

// Saved is the desired state as the state file has it.
type Saved struct {
	path  string
	found bool
	state state
}

// ReadState reads the state file, there being none is fine; "" keeps the state in
// memory only. A file that is damaged, or of another version, is an error that
// says what to do: find out before touching the data path. What an agent left
// beside it that was killed while writing is removed.
func ReadState(path string) (Saved, error) {
	state, found, err := loadState(path)
	if err != nil {
		return Saved{}, err
	}
	return Saved{path: path, found: found, state: state}, removeTemporary(path)
}

func (s state) clone() state {
	s.Services = maps.Clone(s.Services)
	return s
}

// stateJSON is the state as it lies in the file.
type stateJSON struct {
	Version     int    `json:"version"`
	Mode        string `json:"mode"`
	NextBackend uint32 `json:"nextBackend"`
	NextSlot    uint32 `json:"nextSlot"`
	// FormerBackends and FormerSlots are numbers that wait for their owners.
	FormerBackends []former[backendOwner] `json:"formerBackends,omitempty"`
	FormerSlots    []former[slotOwner]    `json:"formerSlots,omitempty"`
	Services       []api.Service          `json:"services"`
}

// loadState reads the file; found is false when there is none.
func loadState(path string) (s state, found bool, err error) {
	s = state{Mode: datapath.DSR.String(), Services: make(map[uint32]api.Service)}
	if path == "" {
		return s, false, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("read the state file: %w", err)
	}
	damaged := func(err error) error {
		return fmt.Errorf("the state file %s is damaged: %w; move it away to start with the services that the pinned maps hold", path, err)
	}
	var j stateJSON
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return s, false, damaged(err)
	}
	if j.Version != stateVersion {
		return s, false, fmt.Errorf("the state file %s has version %d, this agent reads %d", path, j.Version, stateVersion)
	}
	if _, err := datapath.ParseMode(j.Mode); err != nil {
		return s, false, damaged(err)
	}
	for _, service := range j.Services {
		if _, twice := s.Services[service.ID]; twice {
			return s, false, damaged(fmt.Errorf("service %d is there twice", service.ID))
		}
		if err := validateValues(service); err != nil {
			return s, false, damaged(fmt.Errorf("service %d: %w", service.ID, err))
		}
		s.Services[service.ID] = service
	}
	s.Mode, s.NextBackend, s.NextSlot = j.Mode, j.NextBackend, j.NextSlot
	s.FormerBackends, s.FormerSlots = j.FormerBackends, j.FormerSlots
	return s, true, nil
}

// save writes the state so that at any moment the file is the old or the new
// one, whole, also after a crash of the machine.
func (m *Manager) save(s state) error {
	if m.stateFile == "" {
		return nil
	}
	j := stateJSON{
		Version:        stateVersion,
		Mode:           s.Mode,
		NextBackend:    m.backendIDs.next,
		NextSlot:       m.slots.next,
		FormerBackends: m.backendIDs.former,
		FormerSlots:    m.slots.former,
		Services:       []api.Service{},
	}
	for _, id := range slices.Sorted(maps.Keys(s.Services)) {
		j.Services = append(j.Services, s.Services[id])
	}
	text, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	if err := replaceFile(m.stateFile, append(text, '\n')); err != nil {
		return fmt.Errorf("write the state file %s: %w", m.stateFile, err)
	}
	return nil
}

// temporary is the beginning of the names of replaceFile's new files.
func temporary(path string) string { return "." + filepath.Base(path) + "." }

// removeTemporary removes new files that never took the old one's place.
func removeTemporary(path string) error {
	if path == "" {
		return nil
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil // no such folder: save says so
	}
	var faults []error
	for _, f := range files {
		random, ours := strings.CutPrefix(f.Name(), temporary(path))
		if !ours || random == "" || strings.Trim(random, "0123456789") != "" {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(path), f.Name())); err != nil {
			faults = append(faults, fmt.Errorf("remove what an earlier agent left beside the state file: %w", err))
		}
	}
	return errors.Join(faults...)
}

func replaceFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), temporary(path)+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
