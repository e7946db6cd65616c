package decap

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"l4lab/agent/pin"
)

// attachXDP makes the pinned link carry p on iface in the wanted mode.
func (p *program) attachXDP(pins *pinDir, c *change, iface netlink.Link, generic bool) (string, error) {
	index := iface.Attrs().Index
	present := iface.Attrs().Xdp
	isHere := func(info *link.Info) bool {
		xdp := info.XDP()
		// Interfaces' numbers repeat in other namespaces, programs' do not.
		return xdp != nil && int(xdp.Ifindex) == index && present != nil && present.Attached &&
			present.ProgId == uint32(info.Program)
	}
	how, err := p.converge(pins, c, place{
		pin:    xdpLinkPin,
		wanted: func(info *link.Info) bool { return isHere(info) && pin.IsGeneric(present) == generic },
		attach: func() (link.Link, error) { return pin.AttachXDP(p.Program, index, generic) },
		// The kernel has one of the two modes on an interface (net/core/dev.c).
		excludes: isHere,
		restore:  func(old *ebpf.Program) (link.Link, error) { return pin.AttachXDP(old, index, !generic) },
	})
	if err != nil {
		return "", pin.ExplainXDP(err, generic, iface.Attrs().MTU)
	}
	old := pins.filter()
	c.onSuccess(func() error { return errors.Join(pins.removeLink(tcLinkPin), pins.forget(old)) })
	return pin.ModeName(generic) + " XDP, " + how, nil
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
	existing, err := pin.Link(pins.file(at.pin))
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
		c.onSuccess(func() error { return pin.Detach(existing) })
	}
	return how, nil
}

// update makes a link that is where it shall be run p.
func (p *program) update(c *change, pin string, existing link.Link, info *link.Info) (string, error) {
	if p.sameAs(info.Program) {
		return "kept", nil
	}
	before, err := c.holdProgram(info.Program)
	if err != nil {
		return "", fmt.Errorf("the pinned link %s: %w", pin, err)
	}
	if err := existing.Update(p.Program); err != nil {
		return "", fmt.Errorf("update the program of the pinned link %s: %w", pin, err)
	}
	if before != nil {
		c.onFailure(func() error { return existing.Update(before) })
	}
	return "updated", nil
}

// suspend detaches the pinned link and brings its program back when c fails.
func (d *pinDir) suspend(c *change, at place, existing link.Link, info *link.Info) error {
	before, err := c.holdProgram(info.Program)
	if err != nil {
		return fmt.Errorf("the pinned link %s: %w", at.pin, err)
	}
	if before == nil {
		return fmt.Errorf("another mode of XDP takes CAP_SYS_ADMIN, without which the old one could not be brought back; detach first: %w", fs.ErrPermission)
	}
	if err := pin.Detach(existing); err != nil {
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
