package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attach replaces the program of the pinned attachment, in one step for the
// kernel, or makes and pins a new attachment.
func (p *program) Attach() error {
	present, pinned, err := p.attachable()
	if err != nil {
		return err
	}
	if pinned == nil {
		return p.attachNew(present)
	}
	defer pinned.Close()
	if isOrphan(pinned) {
		if err := pinned.Unpin(); err != nil {
			return fmt.Errorf("remove the pin %s of a deleted interface: %w", p.pins.linkPath(), err)
		}
		return p.attachNew(present)
	}
	if err := pinned.Update(p.program); err != nil {
		return fmt.Errorf("replace program %d on %s: %w", present.ProgId, p.options.Interface, err)
	}
	p.options.step("attached to %s: took over from program %d (%s XDP)", p.options.Interface, present.ProgId, modeName(present))
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
func (p *program) attachable() (present netlink.LinkXdp, pinned link.Link, err error) {
	if present, err = xdpOf(p.options.Index); err != nil {
		return present, nil, err
	}
	if pinned, err = p.pins.pinnedLink(); err != nil {
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

func (p *program) checkPinned(pinned link.Link, present netlink.LinkXdp) error {
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
	case int(xdp.Ifindex) != p.options.Index || info.Program != ebpf.ProgramID(present.ProgId):
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
func (p *program) foreign(present netlink.LinkXdp) error {
	if !present.Attached {
		return nil
	}
	return fmt.Errorf("%s: %w (id %d): whoever attached it must detach it first",
		p.options.Interface, ErrForeignProgram, present.ProgId)
}

func (p *program) attachNew(present netlink.LinkXdp) error {
	if err := p.foreign(present); err != nil {
		return err
	}
	mode := link.XDPDriverMode
	if p.options.Generic {
		mode = link.XDPGenericMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: p.program, Interface: p.options.Index, Flags: mode})
	if err != nil {
		return p.explainAttach(err)
	}
	defer l.Close()
	if err := l.Pin(p.pins.linkPath()); err != nil {
		return errors.Join(fmt.Errorf("pin the attachment: %w", err), l.Detach())
	}
	now, err := xdpOf(p.options.Index)
	if err != nil {
		return err
	}
	p.options.step("attached to %s: %s XDP", p.options.Interface, modeName(now))
	return nil
}

func (p *program) explainAttach(err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP) && !p.options.Generic:
		return fmt.Errorf("attach to %s: %w: its driver has no native XDP (%w); --generic uses the slow generic mode",
			p.options.Interface, ErrUnsupported, err)
	case errors.Is(err, unix.ERANGE), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("attach to %s: %w; the MTU may be too large for native XDP (veth: 3506), or offloads in the way (LRO, too many queues)",
			p.options.Interface, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("attach to %s: %w: %w", p.options.Interface, ErrForeignProgram, err)
	case isPermission(err):
		return fmt.Errorf("attach to %s: %w: %w", p.options.Interface, ErrPermission, err)
	}
	return fmt.Errorf("attach to %s: %w", p.options.Interface, err)
}

// Attachment asks netlink, not our own link: what counts is what the interface runs.
func (p *program) Attachment() (Attachment, error) {
	xdp, err := xdpOf(p.options.Index)
	if err != nil || !xdp.Attached {
		return Attachment{}, err
	}
	return Attachment{ProgramID: xdp.ProgId, Mode: modeName(xdp)}, nil
}

func xdpOf(index int) (netlink.LinkXdp, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return netlink.LinkXdp{}, fmt.Errorf("read interface %d: %w", index, err)
	}
	if xdp := l.Attrs().Xdp; xdp != nil {
		return *xdp, nil
	}
	return netlink.LinkXdp{}, nil
}

// modeName reads IFLA_XDP_ATTACHED (enum of linux/if_link.h).
func modeName(xdp netlink.LinkXdp) string {
	const attachedSKB = 2
	if xdp.AttachMode == attachedSKB {
		return "generic"
	}
	return "native"
}
