package pin

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
)

// Name is the name of a pin in eBPF for Windows, such as BPF:\lbagent\config;
// prefix stands in the place of Linux's directory.
func Name(prefix, name string) string { return `BPF:\` + prefix + `\` + name }

// RemoveAll removes the pins of an attachment, of programs and of maps under a prefix,
// in that order; the attachment's last one detaches. None need be there.
func RemoveAll(prefix, link string, programs, maps []string) error {
	var faults []error
	if l, err := Link(Name(prefix, link)); err != nil {
		faults = append(faults, err)
	} else if l != nil {
		faults = append(faults, l.Unpin(), l.Close())
	}
	for _, name := range programs {
		faults = append(faults, removeProgram(Name(prefix, name)))
	}
	for _, name := range maps {
		faults = append(faults, RemoveMap(Name(prefix, name)))
	}
	return errors.Join(faults...)
}

// RemoveMap removes the pin of a map, by its whole name; there being none is fine.
func RemoveMap(path string) error {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pinned map %s: %w", path, err)
	}
	return errors.Join(m.Unpin(), m.Close())
}

func removeProgram(path string) error {
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pinned program %s: %w", path, err)
	}
	return errors.Join(p.Unpin(), p.Close())
}
