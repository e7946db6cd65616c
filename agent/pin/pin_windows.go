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

// RemoveAll removes the pins of an attachment and of maps under a prefix; the
// attachment's last one detaches. None need be there.
func RemoveAll(prefix, link string, maps []string) error {
	var faults []error
	if l, err := Link(Name(prefix, link)); err != nil {
		faults = append(faults, err)
	} else if l != nil {
		faults = append(faults, l.Unpin(), l.Close())
	}
	for _, name := range maps {
		m, err := ebpf.LoadPinnedMap(Name(prefix, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("open the pinned map %s: %w", name, err))
			continue
		}
		faults = append(faults, m.Unpin(), m.Close())
	}
	return errors.Join(faults...)
}
