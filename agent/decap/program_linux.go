package decap

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"l4lab/agent/pin"
	"l4lab/bpf"
)

// program is a loaded program and its maps.
type program struct {
	*ebpf.Program
	name string
	maps map[string]*ebpf.Map
	// kept has the maps that are the pinned ones: what is written to them, a
	// program that is attached already reads at once.
	kept map[string]bool
}

// load puts a hook's program into the kernel, on the pinned maps where they
// are, so that counters go on.
func load(hook Hook, pins *pinDir) (_ *program, err error) {
	name, loadSpec := bpf.DecapXDPProgDecapXdp, bpf.LoadDecapXDP
	if hook == TC {
		name, loadSpec = bpf.DecapTCProgDecapTc, bpf.LoadDecapTC
	}
	spec, err := loadSpec()
	if err != nil {
		return nil, err
	}
	pinned, err := pins.maps()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeMaps(pinned)) }()
	for mapName, m := range pinned {
		if spec.Maps[mapName].Compatible(m) == nil {
			continue
		}
		// Another version's, with another layout: its counters end here.
		if err := m.Close(); err != nil {
			return nil, fmt.Errorf("close the pinned map %s: %w", mapName, err)
		}
		delete(pinned, mapName)
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: pinned})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, pin.Explain(err))
	}
	defer collection.Close()
	p := &program{name: name, maps: map[string]*ebpf.Map{}, kept: map[string]bool{}}
	p.Program = collection.DetachProgram(name)
	for _, mapName := range mapNames() {
		p.maps[mapName] = collection.DetachMap(mapName)
		p.kept[mapName] = pinned[mapName] != nil
	}
	return p, nil
}

// sameAs says that the kernel's program of an id does what p does, on the same maps.
func (p *program) sameAs(id ebpf.ProgramID) bool {
	for _, mapName := range mapNames() {
		if !p.kept[mapName] {
			return false
		}
	}
	other, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer other.Close()
	theirs, err := other.Info()
	if err != nil {
		return false
	}
	ours, err := p.Info()
	return err == nil && ours.Tag == theirs.Tag
}

func (p *program) close() error { return errors.Join(p.Program.Close(), closeMaps(p.maps)) }
