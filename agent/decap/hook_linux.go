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
func (p *program) attachXDP(pins *pinDir, c *change, iface netlink.Link, generic bool) (string, error) {
	index := iface.Attrs().Index
	present := iface.Attrs().Xdp
	attach := func(p *ebpf.Program, generic bool) (link.Link, error) {
		flags := link.XDPDriverMode
		if generic {
			flags = link.XDPGenericMode
		}
		return link.AttachXDP(link.XDPOptions{Program: p, Interface: index, Flags: flags})
	}
	isHere := func(info *link.Info) bool {
		xdp := info.XDP()
		// Interfaces' numbers repeat in other namespaces, programs' do not.
		return xdp != nil && int(xdp.Ifindex) == index && present != nil && present.Attached &&
			present.ProgId == uint32(info.Program)
	}
	how, err := p.converge(pins, c, place{
		pin:    xdpLinkPin,
		wanted: func(info *link.Info) bool { return isHere(info) && isGeneric(present) == generic },
		attach: func() (link.Link, error) { return attach(p.Program, generic) },
		// The kernel has one of the two modes on an interface (net/core/dev.c).
		excludes: isHere,
		restore:  func(old *ebpf.Program) (link.Link, error) { return attach(old, !generic) },
	})
	mode := "native XDP"
	if generic {
		mode = "generic XDP"
	}
	switch {
	case err == nil:
		old := pins.filter()
		c.onSuccess(func() error { return errors.Join(pins.removeLink(tcLinkPin), pins.forget(old)) })
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
func (p *program) attachTC(pins *pinDir, c *change, iface netlink.Link, clsact bool) (string, error) {
	if clsact {
		return p.attachFilter(pins, c, iface)
	}
	index := iface.Attrs().Index
	how, err := p.converge(pins, c, place{
		pin: tcLinkPin,
		wanted: func(info *link.Info) bool {
			tcx := info.TCX()
			return tcx != nil && int(tcx.Ifindex) == index && tcxHas(index, info.ID)
		},
		attach: func() (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Program: p.Program, Interface: index, Attach: ebpf.AttachTCXIngress})
		},
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return p.attachFilter(pins, c, iface)
	}
	if err != nil {
		return "", err
	}
	// A filter may be left from a kernel or a version that had no TCX.
	old := pins.filter()
	c.onSuccess(func() error { return errors.Join(pins.removeLink(xdpLinkPin), pins.forget(old)) })
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

// place is where a link is to be.
type place struct {
	pin    string
	wanted func(*link.Info) bool // the pinned link is there
	attach func() (link.Link, error)
	// excludes says that the pinned link must go before attach can succeed, and
	// restore brings its program back. Nil: both can be there at a time.
	excludes func(*link.Info) bool
	restore  func(*ebpf.Program) (link.Link, error)
}

// converge keeps or updates the pinned link when it is the wanted one, and
// replaces it by a new one when it is not.
func (p *program) converge(pins *pinDir, c *change, at place) (string, error) {
	existing, err := pins.link(at.pin)
	if err != nil {
		return "", err
	}
	how := "attached"
	if existing != nil {
		c.hold(existing)
		info, err := existing.Info()
		if err != nil {
			return "", fmt.Errorf("read the pinned link %s: %w", at.pin, err)
		}
		if at.wanted(info) {
			return p.update(c, at.pin, existing, info)
		}
		how = "attached anew"
		if at.excludes != nil && at.excludes(info) {
			if err := pins.suspend(c, at, existing, info); err != nil {
				return "", err
			}
		}
	}
	attached, err := at.attach()
	if err != nil {
		return "", err
	}
	c.hold(attached)
	c.onFailure(attached.Detach)
	if err := pins.pinNew(c, at.pin, attached.Pin); err != nil {
		return "", err
	}
	if existing != nil {
		c.onSuccess(func() error { return detach(existing) })
	}
	return how, nil
}

// update makes a link that is where it shall be run p.
func (p *program) update(c *change, pin string, existing link.Link, info *link.Info) (string, error) {
	if p.sameAs(info.Program) {
		return "kept", nil
	}
	before, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return "", fmt.Errorf("open the program of the pinned link %s: %w", pin, err)
	}
	c.hold(before)
	if err := existing.Update(p.Program); err != nil {
		return "", fmt.Errorf("update the program of the pinned link %s: %w", pin, err)
	}
	c.onFailure(func() error { return existing.Update(before) })
	return "updated", nil
}

// suspend detaches the pinned link and brings its program back when c fails.
func (d *pinDir) suspend(c *change, at place, existing link.Link, info *link.Info) error {
	before, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return fmt.Errorf("open the program of the pinned link %s: %w", at.pin, err)
	}
	c.hold(before)
	if err := detach(existing); err != nil {
		return fmt.Errorf("detach %s: %w", d.file(at.pin), err)
	}
	c.onFailure(func() error {
		again, err := at.restore(before)
		if err != nil {
			return err
		}
		defer again.Close() // the pin holds it
		return errors.Join(d.remove(at.pin), again.Pin(d.file(at.pin)))
	})
	return nil
}

// detach is content when the link's interface is gone.
func detach(l link.Link) error {
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return err
	}
	return nil
}
