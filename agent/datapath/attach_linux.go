package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"l4lab/agent/pin"
)

// Attach replaces the program of the pinned attachment, in one step for the
// kernel, or makes and pins a new attachment.
func (p *program) Attach() error {
	present, pinned, err := p.attachable()
	if err != nil {
		return err
	}
	if pinned != nil {
		defer pinned.Close()
	}
	if err := p.pinStages(); err != nil {
		return err
	}
	if err := p.attach(present, pinned); err != nil {
		return errors.Join(err, p.unpinStages())
	}
	return p.removeOtherStages()
}

func (p *program) attach(present *netlink.LinkAttrs, pinned link.Link) error {
	if pinned == nil {
		return p.attachNew(present)
	}
	if isOrphan(pinned) {
		if err := pinned.Unpin(); err != nil {
			return fmt.Errorf("remove the pin %s of a deleted interface: %w", p.pins.linkPath(), err)
		}
		return p.attachNew(present)
	}
	if err := pinned.Update(p.program); err != nil {
		return fmt.Errorf("replace program %d on %s: %w", present.Xdp.ProgId, p.options.Interface, err)
	}
	p.options.step("attached to %s: took over from program %d (%s XDP)", p.options.Interface, present.Xdp.ProgId, pin.ModeName(pin.IsGeneric(present.Xdp)))
	return nil
}

// checkAttachable says, before anything is made or written, that Attach will
// meet another interface's pins or somebody else's program.
func (p *program) checkAttachable() error {
	_, pinned, err := p.attachable()
	if pinned != nil {
		err = errors.Join(err, pinned.Close())
	}
	return err
}

// attachable returns what the interface runs and the pinned attachment, nil
// when there is none; the pin is this interface's, or a deleted one's.
func (p *program) attachable() (present *netlink.LinkAttrs, pinned link.Link, err error) {
	if present, err = interfaceOf(p.options.Index); err != nil {
		return nil, nil, err
	}
	if pinned, err = pin.Link(p.pins.linkPath()); err != nil {
		return present, nil, err
	}
	if pinned == nil {
		return present, nil, p.foreign(present)
	}
	if err := p.checkPinned(pinned, present); err != nil {
		return present, nil, errors.Join(err, pinned.Close())
	}
	return present, pinned, nil
}

func (p *program) checkPinned(pinned link.Link, present *netlink.LinkAttrs) error {
	info, err := pinned.Info()
	if err != nil {
		return fmt.Errorf("read the pinned attachment %s: %w", p.pins.linkPath(), err)
	}
	xdp := info.XDP()
	switch {
	case xdp == nil:
		return fmt.Errorf("the pinned attachment %s is no XDP link", p.pins.linkPath())
	case xdp.Ifindex == 0:
		return p.foreign(present)
	case int(xdp.Ifindex) != p.options.Index || info.Program != ebpf.ProgramID(present.Xdp.ProgId):
		// Numbers of interfaces repeat in other network namespaces, programs' do not.
		return fmt.Errorf("the pins in %s belong to interface %d with program %d, not to %s (%d): run `lbagent unload` first, or choose another --pin-dir",
			p.pins.path, xdp.Ifindex, info.Program, p.options.Interface, p.options.Index)
	}
	return nil
}

// isOrphan says whether a pinned attachment holds nothing, its interface having been deleted.
func isOrphan(pinned link.Link) bool {
	info, err := pinned.Info()
	return err == nil && info.XDP() != nil && info.XDP().Ifindex == 0
}

// foreign refuses an interface that runs a program though no pin of ours holds one there.
func (p *program) foreign(present *netlink.LinkAttrs) error {
	if !present.Xdp.Attached {
		return nil
	}
	return fmt.Errorf("%s: %w (id %d): whoever attached it must detach it first",
		p.options.Interface, ErrForeignProgram, present.Xdp.ProgId)
}

func (p *program) attachNew(present *netlink.LinkAttrs) error {
	if err := p.foreign(present); err != nil {
		return err
	}
	l, err := pin.AttachXDP(p.program, p.options.Index, p.options.Generic)
	if err != nil {
		return fmt.Errorf("attach to %s: %w", p.options.Interface, pin.ExplainXDP(err, p.options.Generic, present.MTU))
	}
	defer l.Close()
	if err := l.Pin(p.pins.linkPath()); err != nil {
		return errors.Join(fmt.Errorf("pin the attachment: %w", err), l.Detach())
	}
	now, err := interfaceOf(p.options.Index)
	if err != nil {
		return err
	}
	p.options.step("attached to %s: %s XDP", p.options.Interface, pin.ModeName(pin.IsGeneric(now.Xdp)))
	return nil
}

// Attachment asks netlink, not our own link: what counts is what the interface runs.
func (p *program) Attachment() (Attachment, error) {
	now, err := interfaceOf(p.options.Index)
	if err != nil || !now.Xdp.Attached {
		return Attachment{}, err
	}
	return Attachment{ProgramID: now.Xdp.ProgId, Mode: pin.ModeName(pin.IsGeneric(now.Xdp))}, nil
}

// interfaceOf reads an interface; its Xdp is never nil.
func interfaceOf(index int) (*netlink.LinkAttrs, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("read interface %d: %w", index, err)
	}
	attrs := l.Attrs()
	if attrs.Xdp == nil {
		attrs.Xdp = &netlink.LinkXdp{}
	}
	return attrs, nil
}
