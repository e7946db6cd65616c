package decap

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l4lab/agent/pin"
)

// filterName marks our filter among others on the interface.
const filterName = "lbagent_decap"

// pinnedFilter is the clsact filter that a pin directory knows of.
type pinnedFilter struct {
	iface       string // "" when there is none
	addedClsact bool   // the qdisc is ours too
}

func (d *pinDir) filter() pinnedFilter {
	added := d.has(clsactMark)
	if !d.has(tcProgramPin) && !added {
		return pinnedFilter{}
	}
	return pinnedFilter{d.iface(), added}
}

// delete removes the filter from its interface; the pins stay.
func (f pinnedFilter) delete() error {
	if f.iface == "" {
		return nil
	}
	return deleteFilter(f.iface, f.addedClsact)
}

// attachFilter puts p on a clsact filter, the way of kernels before 6.6. A
// filter has no link to pin; its program is pinned instead, so that Status can
// tell ours from another of that name.
func (p *program) attachFilter(pins *pinDir, c *change, iface netlink.Link) (string, error) {
	name := iface.Attrs().Name
	if old := pins.filter(); old.iface != name {
		c.onSuccess(old.delete)
		if err := pins.note(c, clsactMark, ""); err != nil {
			return "", err
		}
	}
	clsact := clsactOf(iface)
	err := netlink.QdiscAdd(clsact)
	switch {
	case err == nil:
		c.onFailure(func() error { return netlink.QdiscDel(clsact) })
		if err := pins.note(c, clsactMark, name); err != nil {
			return "", err
		}
	case !errors.Is(err, unix.EEXIST):
		return "", fmt.Errorf("add the clsact qdisc: %w", err)
	}
	how, err := p.setFilter(c, iface)
	if err != nil {
		return "", err
	}
	if err := pins.pinNew(c, tcProgramPin, p.Program.Pin); err != nil {
		return "", err
	}
	c.onSuccess(func() error { return errors.Join(pins.removeLink(tcLinkPin), pins.removeLink(xdpLinkPin)) })
	return "clsact filter, " + how, nil
}

// setFilter makes our filter run p, or adds it.
func (p *program) setFilter(c *change, iface netlink.Link) (how string, err error) {
	ours, free, err := findFilter(iface)
	if err != nil {
		return "", err
	}
	undo := func() error { return deleteFilter(iface.Attrs().Name, false) }
	how = "attached"
	if ours != nil {
		how = "updated"
		before, err := c.holdProgram(ebpf.ProgramID(ours.Id))
		if err != nil {
			return "", fmt.Errorf("the clsact filter %s: %w", filterName, err)
		}
		undo = func() error { return nil }
		if before != nil {
			old := *ours
			old.Fd = before.FD()
			undo = func() error { return netlink.FilterReplace(&old) }
		}
	} else {
		ours = &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: iface.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS,
				Handle: 1, Protocol: unix.ETH_P_ALL, Priority: free},
			Name: filterName, DirectAction: true,
		}
	}
	ours.Fd = p.FD()
	if err := netlink.FilterReplace(ours); err != nil {
		return "", fmt.Errorf("set the clsact filter %s: %w", filterName, err)
	}
	c.onFailure(undo)
	return how, nil
}

func clsactOf(iface netlink.Link) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: iface.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// findFilter returns our filter on an interface, nil when there is none, and
// the first priority that nobody uses.
func findFilter(iface netlink.Link) (ours *netlink.BpfFilter, free uint16, err error) {
	filters, err := netlink.FilterList(iface, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return nil, 0, fmt.Errorf("list the ingress filters of %s: %w", iface.Attrs().Name, err)
	}
	used := map[uint16]bool{}
	for _, f := range filters {
		used[f.Attrs().Priority] = true
		if bpf, ok := f.(*netlink.BpfFilter); ok && bpf.Name == filterName {
			ours = bpf
		}
	}
	for free = 1; used[free]; free++ {
	}
	return ours, free, nil
}

// filterAttached says that our filter, with the pinned program, is on an interface.
func filterAttached(name string, id ebpf.ProgramID) (bool, error) {
	iface, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up interface %s: %w", name, err)
	}
	ours, _, err := findFilter(iface)
	if err != nil {
		return false, err
	}
	return ours != nil && ours.Id == int(id), nil
}

// deleteFilter removes our filter from an interface, and the clsact qdisc if we
// added it and nobody uses it.
func deleteFilter(name string, addedClsact bool) error {
	iface, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil // gone, and the filter with it
	}
	if err != nil {
		return fmt.Errorf("look up interface %s: %w", name, err)
	}
	ours, _, err := findFilter(iface)
	if err != nil {
		return err
	}
	if ours != nil {
		if err := netlink.FilterDel(ours); err != nil {
			return fmt.Errorf("delete the clsact filter %s of %s: %w", filterName, name, pin.Explain(err))
		}
	}
	if !addedClsact {
		return nil
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if others, err := netlink.FilterList(iface, parent); err != nil || len(others) > 0 {
			return err
		}
	}
	if err := netlink.QdiscDel(clsactOf(iface)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("delete the clsact qdisc of %s: %w", name, pin.Explain(err))
	}
	return nil
}
