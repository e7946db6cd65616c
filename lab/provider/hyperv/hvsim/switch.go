package hvsim

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"l4lab/lab/provider/hyperv/scripts"
)

// ownSwitch returns the switch of a name that bears the mark, nil for none. One
// of the name without the mark is foreign, also beside one with it: which of
// the two a cmdlet that takes names would mean is anybody's guess. The caller
// holds the store's lock.
func (h *Host) ownSwitch(name, mark string) (*vswitch, error) {
	var own *vswitch
	for _, s := range h.store.switchesNamed(name) {
		if !s.ours(mark) || s.Type != "Internal" {
			return nil, fail(scripts.Foreign, name, "a switch %s exists that lacks the mark of this lab, or is not internal", name)
		}
		own = s
	}
	return own, nil
}

// theSwitch is ownSwitch for verbs that need one.
func (h *Host) theSwitch(name, mark string) (*vswitch, error) {
	s, err := h.ownSwitch(name, mark)
	if err == nil && s == nil {
		err = fail(scripts.NotFound, name, "there is no switch %s", name)
	}
	return s, err
}

func (s *vswitch) facts() scripts.SwitchFacts {
	return scripts.SwitchFacts{
		Name: s.Name, ID: s.ID, Type: s.Type, InterfaceIndex: s.InterfaceIndex, MAC: s.MAC, MTU: s.MTU,
		Addresses: slices.Clone(s.Addresses), Routes: slices.Clone(s.Routes),
	}
}

func (h *Host) switchEnsure(ctx context.Context, p scripts.SwitchEnsureParams) (scripts.SwitchEnsureResult, error) {
	h.store.Lock()
	defer h.store.Unlock()
	s, err := h.ownSwitch(p.Name, p.Mark)
	if err != nil {
		return scripts.SwitchEnsureResult{}, err
	}
	if s != nil {
		return scripts.SwitchEnsureResult{Switch: s.facts()}, nil
	}
	if s, err = h.makeSwitch(ctx, p.Name, p.Mark); err != nil {
		return scripts.SwitchEnsureResult{}, err
	}
	return scripts.SwitchEnsureResult{Changed: changed("switch"), Switch: s.facts()}, nil
}

// makeSwitch makes an internal switch; the caller holds the store's lock.
func (h *Host) makeSwitch(ctx context.Context, name, notes string) (*vswitch, error) {
	if name == "" {
		return nil, fail(idInvalidParam, "", "Cannot bind argument to parameter 'Name' because it is an empty string.")
	}
	s := &vswitch{Name: name, ID: newID(), Notes: notes, Type: "Internal", InterfaceIndex: h.store.NextIndex, MTU: 1500}
	if err := h.plugIn(ctx, s); err != nil {
		return nil, err
	}
	h.store.NextIndex++
	h.store.Switches = append(h.store.Switches, s)
	return s, h.store.save()
}

// plugIn makes a switch's segment, known below by the switch's ID: names need
// not be unique, and may hold anything.
func (h *Host) plugIn(ctx context.Context, s *vswitch) error {
	mac, err := h.guests.EnsureSwitch(ctx, s.ID)
	if err != nil {
		return fmt.Errorf("make the segment of switch %s: %w", s.Name, err)
	}
	s.MAC = windowsMAC(mac)
	return nil
}

func (h *Host) switchRemove(ctx context.Context, p scripts.SwitchRemoveParams) (scripts.Removed, error) {
	h.store.Lock()
	defer h.store.Unlock()
	s, err := h.ownSwitch(p.Name, p.Mark)
	if err != nil || s == nil {
		return scripts.Removed{}, err
	}
	for _, vm := range h.store.Machines {
		if vm.SwitchID == s.ID {
			return scripts.Removed{}, fail(scripts.InUse, p.Name, "Failed while removing virtual Ethernet switch.\nThe virtual switch '%s' cannot be deleted "+
				"because it is being used by running virtual machines or assigned to child pools.\nMachine %s is connected to it.", s.Name, vm.Name)
		}
	}
	if err := h.guests.RemoveSwitch(ctx, s.ID); err != nil {
		return scripts.Removed{}, fmt.Errorf("remove the segment of switch %s: %w", s.Name, err)
	}
	h.store.Switches = slices.DeleteFunc(h.store.Switches, func(other *vswitch) bool { return other == s })
	return scripts.Removed{Removed: true}, h.store.save()
}

func (h *Host) hostAddressEnsure(ctx context.Context, p scripts.HostAddressEnsureParams) (scripts.HostAddressEnsureResult, error) {
	h.store.Lock()
	defer h.store.Unlock()
	var none scripts.HostAddressEnsureResult
	s, err := h.theSwitch(p.Switch, p.Mark)
	if err != nil {
		return none, err
	}
	next := *s
	next.Addresses, next.MTU = nil, p.MTU
	for _, text := range p.Addresses {
		if text == "" {
			continue
		}
		a, err := netip.ParsePrefix(text)
		if err != nil {
			return none, fail(idInvalidParam, text, "The parameter is incorrect: %v.", err)
		}
		if owner := h.addressTaken(s, a.Addr()); owner != nil {
			return none, fail(scripts.Foreign, text, "adapter vEthernet (%s) has this address", owner.Name)
		}
		next.Addresses = append(next.Addresses, a.String())
	}
	// Windows' own bounds for an IPv4 interface: 352 (MinimumMtu of a jumbo-less
	// adapter may be less) to 65535.
	if p.MTU < 352 || p.MTU > 65535 {
		return none, fail(idInvalidParam, fmt.Sprint(p.MTU), "The parameter is incorrect: an MTU of %d.", p.MTU)
	}
	what := differences(s.Addresses, next.Addresses, "address ")
	if len(what) > 0 {
		next.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(r scripts.HostRoute) bool { return !onLink(next.Addresses, r.Via) })
	}
	if s.MTU != p.MTU {
		what = append(what, fmt.Sprintf("mtu %d -> %d", s.MTU, p.MTU))
	}
	if err := h.applyNetwork(ctx, s, &next, what); err != nil {
		return none, err
	}
	return scripts.HostAddressEnsureResult{Changed: changed(what...), Switch: s.facts()}, nil
}

// addressTaken returns another switch whose adapter has the address.
func (h *Host) addressTaken(s *vswitch, a netip.Addr) *vswitch {
	for _, other := range h.store.Switches {
		for _, text := range other.Addresses {
			if p, err := netip.ParsePrefix(text); err == nil && other != s && p.Addr() == a {
				return other
			}
		}
	}
	return nil
}

// onLink says whether an address is one that the adapter reaches by itself.
func onLink(addresses []string, via string) bool {
	a, err := netip.ParseAddr(via)
	return err == nil && slices.ContainsFunc(addresses, func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return err == nil && p.Contains(a)
	})
}

func (h *Host) hostRoutesEnsure(ctx context.Context, p scripts.HostRoutesEnsureParams) (scripts.Changed, error) {
	h.store.Lock()
	defer h.store.Unlock()
	s, err := h.theSwitch(p.Switch, p.Mark)
	if err != nil {
		return scripts.Changed{}, fail(scripts.NotFound, p.Switch, "there is no switch %s with the mark", p.Switch)
	}
	next := *s
	next.Routes = nil
	for _, r := range p.Routes {
		destination, err := netip.ParsePrefix(r.Destination)
		if err != nil || destination != destination.Masked() {
			return scripts.Changed{}, fail(idInvalidParam, r.Destination, "The parameter is incorrect: %s is no destination.", r.Destination)
		}
		if !onLink(s.Addresses, r.Via) {
			return scripts.Changed{}, fail(idInvalidParam, r.Via, "Element not found: no address of the adapter reaches %s.", r.Via)
		}
		next.Routes = append(next.Routes, scripts.HostRoute{Destination: destination.String(), Via: r.Via})
	}
	what := differences(routeTexts(s.Routes), routeTexts(next.Routes), "route ")
	return changed(what...), h.applyNetwork(ctx, s, &next, what)
}

func routeTexts(routes []scripts.HostRoute) []string {
	var texts []string
	for _, r := range routes {
		texts = append(texts, r.Destination+" via "+r.Via)
	}
	return texts
}

// differences says what has to go and what has to come.
func differences(old, next []string, kind string) []string {
	var what []string
	for _, text := range old {
		if !slices.Contains(next, text) {
			what = append(what, "without "+text)
		}
	}
	for _, text := range next {
		if !slices.Contains(old, text) {
			what = append(what, kind+text)
		}
	}
	return what
}

// applyNetwork gives the host's adapter what next says, and then remembers it.
func (h *Host) applyNetwork(ctx context.Context, s, next *vswitch, what []string) error {
	if len(what) == 0 {
		return nil
	}
	n, err := next.network()
	if err != nil {
		return err
	}
	if err := h.guests.SetHost(ctx, n); err != nil {
		return fmt.Errorf("set up the host's adapter on switch %s: %w", s.Name, err)
	}
	*s = *next
	return h.store.save()
}

func (s *vswitch) network() (HostNetwork, error) {
	n := HostNetwork{Switch: s.ID, MTU: s.MTU, Routes: map[netip.Prefix]netip.Addr{}}
	for _, text := range s.Addresses {
		a, err := netip.ParsePrefix(text)
		if err != nil {
			return n, err
		}
		n.Addresses = append(n.Addresses, a)
	}
	for _, r := range s.Routes {
		destination, err := netip.ParsePrefix(r.Destination)
		if err != nil {
			return n, err
		}
		if n.Routes[destination], err = netip.ParseAddr(r.Via); err != nil {
			return n, err
		}
	}
	return n, nil
}

// changed says what a verb changed; nothing: that it did not.
func changed(what ...string) scripts.Changed {
	return scripts.Changed{Changed: len(what) > 0, What: what}
}
