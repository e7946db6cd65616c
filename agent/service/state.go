package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// stateVersion is the form of the state file that this code writes. Version 1,
// which it reads too, had no records behind the state.
const stateVersion = 2

// state is what is desired, and where the numbering stands.
type state struct {
	catalog
	// mode is the default for services that name none.
	mode string
	// revision is the highest that any service has had.
	revision uint64
	// nextBackend and nextSlot are where numbers.next stood, the others what
	// numbers.former was.
	nextBackend, nextSlot uint32
	formerBackends        []former[backendOwner]
	formerSlots           []former[slotOwner]
}

// mark and reset go back to what is no service.
func (s *state) mark() state { return state{mode: s.mode, revision: s.revision} }

func (s *state) reset(to state) { s.mode, s.revision = to.mode, to.revision }

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

// stateJSON is the state as it lies in the file.
type stateJSON struct {
	Version     int    `json:"version"`
	Mode        string `json:"mode"`
	Revision    uint64 `json:"revision,omitempty"`
	NextBackend uint32 `json:"nextBackend"`
	NextSlot    uint32 `json:"nextSlot"`
	// FormerBackends and FormerSlots are numbers that wait for their owners.
	FormerBackends []former[backendOwner] `json:"formerBackends,omitempty"`
	FormerSlots    []former[slotOwner]    `json:"formerSlots,omitempty"`
	Services       []api.Service          `json:"services"`
}

// record is a change of the state, in the file behind it and what came before.
type record struct {
	Mode   string        `json:"mode,omitempty"`
	Put    []api.Service `json:"put,omitempty"`
	Delete []uint32      `json:"delete,omitempty"`
	// The numbers: the slots that went to other services, then what was given back.
	ReusedSlots    []uint32               `json:"reusedSlots,omitempty"`
	FormerBackends []former[backendOwner] `json:"formerBackends,omitempty"`
	FormerSlots    []former[slotOwner]    `json:"formerSlots,omitempty"`
	NextBackend    *uint32                `json:"nextBackend,omitempty"`
	NextSlot       *uint32                `json:"nextSlot,omitempty"`
}

// loadState reads the file; found is false when there is none.
func loadState(path string) (s state, found bool, err error) {
	s = state{mode: datapath.DSR.String(), catalog: newCatalog()}
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
	// A machine that crashed may have left zeros where the last record was to be.
	dec := json.NewDecoder(bytes.NewReader(bytes.TrimRight(text, "\x00")))
	var form struct{ Version int }
	if err := dec.Decode(&form); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return s, false, damaged(err)
	}
	if form.Version != stateVersion && form.Version != 1 {
		return s, false, fmt.Errorf("the state file %s has version %d, this agent reads %d", path, form.Version, stateVersion)
	}
	dec = json.NewDecoder(bytes.NewReader(bytes.TrimRight(text, "\x00")))
	dec.DisallowUnknownFields()
	var j stateJSON
	if err := dec.Decode(&j); err != nil {
		return s, false, damaged(err)
	}
	if err := s.begin(j); err != nil {
		return s, false, damaged(err)
	}
	for {
		var r record
		err := dec.Decode(&r)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return s, true, nil // the last record was cut off: nobody was told that it is saved
		}
		if err == nil {
			err = s.replay(r)
		}
		if err != nil {
			return s, false, damaged(err)
		}
	}
}

// begin takes the state as the file begins with.
func (s *state) begin(j stateJSON) error {
	if _, err := datapath.ParseMode(j.Mode); err != nil {
		return err
	}
	s.mode, s.revision, s.nextBackend, s.nextSlot = j.Mode, j.Revision, j.NextBackend, j.NextSlot
	s.formerBackends, s.formerSlots = j.FormerBackends, j.FormerSlots
	for _, service := range j.Services {
		if _, twice := s.services[service.ID]; twice {
			return fmt.Errorf("service %d is there twice", service.ID)
		}
		if err := s.read(service); err != nil {
			return err
		}
	}
	return nil
}

// read puts a service in the place of the one that was there, if any.
func (s *state) read(service api.Service) error {
	service = complete(service, s.mode)
	service.Revision = max(service.Revision, 1) // version 1 had none
	if err := validateValues(service); err != nil {
		return fmt.Errorf("service %d: %w", service.ID, err)
	}
	s.swap([]edit{{service.ID, &service}})
	s.revision = max(s.revision, service.Revision)
	return nil
}

func (s *state) replay(r record) error {
	if r.Mode != "" {
		if _, err := datapath.ParseMode(r.Mode); err != nil {
			return err
		}
		s.mode = r.Mode
	}
	for _, id := range r.Delete {
		s.swap([]edit{{id, nil}})
	}
	for _, service := range r.Put {
		if err := s.read(service); err != nil {
			return err
		}
	}
	for _, slot := range r.ReusedSlots {
		kept := s.formerBackends[:0]
		for _, f := range s.formerBackends {
			if f.Owner.Slot != slot {
				kept = append(kept, f)
			}
		}
		s.formerBackends = kept
	}
	s.formerBackends = append(s.formerBackends, r.FormerBackends...)
	s.formerSlots = append(s.formerSlots, r.FormerSlots...)
	if r.NextBackend != nil {
		s.nextBackend = *r.NextBackend
	}
	if r.NextSlot != nil {
		s.nextSlot = *r.NextSlot
	}
	return nil
}

// saveAll writes the state anew.
func (m *Manager) saveAll() error {
	j := stateJSON{
		Version:        stateVersion,
		Mode:           m.desired.mode,
		Revision:       m.desired.revision,
		NextBackend:    m.backendIDs.next,
		NextSlot:       m.slots.next,
		FormerBackends: m.backendIDs.former,
		FormerSlots:    m.slots.former,
		Services:       make([]api.Service, 0, len(m.desired.services)),
	}
	for _, id := range m.desired.ids() {
		j.Services = append(j.Services, m.desired.services[id])
	}
	if err := m.journal.begin(j); err != nil {
		return err
	}
	m.numbersSaved()
	return nil
}

// saveEdits writes what of the desired state is another; it is in m.desired already.
// When it returns, the change outlives a crash, of the machine too.
func (m *Manager) saveEdits(edits []edit) error {
	if m.journal.path == "" {
		return nil
	}
	if !m.journal.open() {
		return m.saveAll()
	}
	r := record{Mode: m.desired.mode}
	for _, e := range edits {
		if e.service == nil {
			r.Delete = append(r.Delete, e.id)
		} else {
			r.Put = append(r.Put, *e.service)
		}
	}
	return m.journal.append(r, true)
}

// saveNumbers writes where the numbering stands. It need not outlive the machine, whose
// maps do not either.
func (m *Manager) saveNumbers() error {
	defer m.numbersSaved()
	if !m.journal.open() || len(m.backendIDs.retired)+len(m.slots.retired)+len(m.reusedSlots) == 0 && !m.numbersMoved() {
		return nil
	}
	backend, slot := m.backendIDs.next, m.slots.next
	return m.journal.append(record{
		ReusedSlots:    m.reusedSlots,
		FormerBackends: m.backendIDs.retired,
		FormerSlots:    m.slots.retired,
		NextBackend:    &backend,
		NextSlot:       &slot,
	}, false)
}

func (m *Manager) numbersMoved() bool {
	return m.desired.nextBackend != m.backendIDs.next || m.desired.nextSlot != m.slots.next
}

func (m *Manager) numbersSaved() {
	m.reusedSlots, m.backendIDs.retired, m.slots.retired = nil, nil, nil
	m.desired.nextBackend, m.desired.nextSlot = m.backendIDs.next, m.slots.next
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
