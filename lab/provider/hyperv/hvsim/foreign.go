package hvsim

import (
	"context"

	"l4lab/lab/provider/hyperv/scripts"
)

// PlaceSwitch and PlaceMachine put things on the host that no lab made, so that
// it can be tried that labs leave them alone. Notes is what their Notes say.

// PlaceSwitch makes an internal switch, also beside one of the same name.
func (h *Host) PlaceSwitch(ctx context.Context, name, notes string) (scripts.SwitchFacts, error) {
	h.store.Lock()
	defer h.store.Unlock()
	s, err := h.makeSwitch(ctx, name, notes)
	if err != nil {
		return scripts.SwitchFacts{}, err
	}
	return s.facts(), nil
}

// PlaceMachine makes a machine that is off and has neither disk nor network,
// also beside one of the same name.
func (h *Host) PlaceMachine(name, notes string) (scripts.VMFacts, error) {
	h.store.Lock()
	defer h.store.Unlock()
	vm := &machine{Name: name, ID: newID(), Notes: notes, Generation: 2, MemoryMB: 1024, Processors: 1, MAC: "00155D000000", SecureBoot: "Off"}
	h.store.Machines = append(h.store.Machines, vm)
	return h.facts(vm), h.store.save()
}
