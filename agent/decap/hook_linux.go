package decap

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attachXDP makes the pinned link carry p on iface in the wanted mode.
func (p *program) attachXDP(pins *pinDir, iface netlink.Link, generic bool) (string, error) {
	index := iface.Attrs().Index
	mode, flags := "native XDP", link.XDPDriverMode
	if generic {
		mode, flags = "generic XDP", link.XDPGenericMode
	}
	present := iface.Attrs().Xdp
	isOurs := func(info *link.Info) bool {
		xdp := info.XDP()
		// Interfaces' numbers repeat in other namespaces, programs' do not.
		return xdp != nil && int(xdp.Ifindex) == index && present != nil && present.Attached &&
			present.ProgId == uint32(info.Program) && isGeneric(present) == generic
	}
	how, err := p.converge(pins, xdpLinkPin, isOurs, func() (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Program: p.Program, Interface: index, Flags: flags})
	})
	switch {
	case err == nil:
		return mode + ", " + how, nil
	case errors.Is(err, unix.EOPNOTSUPP) && !generic:
		return "", fmt.Errorf("%w: the driver has no native XDP (%w); --generic takes the slow mode", ErrUnsupported, err)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return "", fmt.Errorf("another XDP program is on it already, and it is not ours to remove: %w", err)
	case errors.Is(err, unix.ERANGE), errors.Is(err, unix.EINVAL):
		return "", fmt.Errorf("%w: the MTU of %d may be too large for native XDP (on a veth the peer's may be 3506)", err, iface.Attrs().MTU)
	}
	return "", err
}

// isGeneric reads IFLA_XDP_ATTACHED (linux/if_link.h).
func isGeneric(xdp *netlink.LinkXdp) bool {
	const attachedSKB = 2
	return xdp.AttachMode == attachedSKB
}

// attachTC makes a TCX link carry p, or, where the kernel has none, a filter.
func (p *program) attachTC(pins *pinDir, iface netlink.Link, clsact bool) (string, error) {
	if clsact {
		return p.attachFilter(pins, iface)
	}
	index := iface.Attrs().Index
	isOurs := func(info *link.Info) bool {
		tcx := info.TCX()
		return tcx != nil && int(tcx.Ifindex) == index && tcxHas(index, info.ID)
	}
	how, err := p.converge(pins, tcLinkPin, isOurs, func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Program: p.Program, Interface: index, Attach: ebpf.AttachTCXIngress})
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return p.attachFilter(pins, iface)
	}
	if err != nil {
		return "", err
	}
	// A filter is left from a kernel or a version that had no TCX.
	if err := pins.removeFilter(); err != nil {
		return "", err
	}
	return "TCX, " + how, nil
}

// tcxHas says that a link is on an interface of this network namespace.
func tcxHas(index int, id link.ID) bool {
	result, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return false
	}
	for _, attached := range result.Programs {
		if linkID, ok := attached.LinkID(); ok && linkID == id {
			return true
		}
	}
	return false
}

// converge keeps or updates the pinned link when it is the wanted one, and
// replaces it by a new one when it is not.
func (p *program) converge(pins *pinDir, pin string, wanted func(*link.Info) bool, attach func() (link.Link, error)) (string, error) {
	existing, err := pins.link(pin)
	if err != nil {
		return "", err
	}
	if existing != nil {
		defer existing.Close()
		info, err := existing.Info()
		if err != nil {
			return "", fmt.Errorf("read the pinned link %s: %w", pin, err)
		}
		if wanted(info) {
			if p.sameAs(info.Program) {
				return "kept", nil
			}
			if err := existing.Update(p.Program); err != nil {
				return "", fmt.Errorf("update the program of the pinned link %s: %w", pin, err)
			}
			return "updated", nil
		}
		if err := pins.removeLink(pin); err != nil {
			return "", err
		}
	}
	attached, err := attach()
	if err != nil {
		return "", err
	}
	defer attached.Close() // the pin holds it
	if err := attached.Pin(pins.file(pin)); err != nil {
		return "", fmt.Errorf("pin the link %s: %w", pin, errors.Join(err, attached.Detach()))
	}
	if existing != nil {
		return "attached anew", nil
	}
	return "attached", nil
}
