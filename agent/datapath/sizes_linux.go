package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

// wanted returns the size that a map shall have by the options, 0 when they say nothing of it.
func (s Sizes) wanted(name string) uint32 {
	switch name {
	case bpf.LBMapServices: // and their VIPs
		return 2 * s.Services
	case bpf.LBMapMaglev, bpf.LBMapServiceStats:
		return s.Services
	case bpf.LBMapBackends, bpf.LBMapBackendStats:
		return s.Backends
	case bpf.LBMapSources:
		return s.Sources
	case bpf.LBMapFlows4, bpf.LBMapNat4:
		return s.Connections
	case bpf.LBMapFlows6, bpf.LBMapNat6, bpf.LBMapNewFlows4, bpf.LBMapNewNat4:
		return (s.Connections + 3) / 4
	case bpf.LBMapNewFlows6, bpf.LBMapNewNat6:
		return (s.Connections + 15) / 16
	}
	return 0
}

// resize gives a map's spec the size that the options ask for, or else the one
// that the pinned map has: a map that is there goes on as it is.
func (p *program) resize(name string, spec *ebpf.MapSpec) error {
	if size := p.options.Sizes.wanted(name); size != 0 {
		spec.MaxEntries = size
		return nil
	}
	pinned, err := ebpf.LoadPinnedMap(filepath.Join(p.pins.path, name), nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("open the pinned map %s in %s: %w", name, p.pins.path, err)
	}
	spec.MaxEntries = pinned.MaxEntries()
	return pinned.Close()
}
