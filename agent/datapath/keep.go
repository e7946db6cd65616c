package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// tableKeeper keeps Maglev tables alive while they are in the map of tables, where
// that map does not: efW 0.21 holds the ids of what is in it, not the maps, and a table
// goes when the last handle of it is closed, for then it has no pin either
// (EBPF_OBJECT_ACQUIRE_ID_REFERENCE in ebpf_maps.c; 1.2 holds the maps themselves).
// A pin is what outlives the agent, so each table gets one, named after slot and id.
type tableKeeper struct {
	// current is the id of the table in a slot, 0 if there is none.
	current func(slot uint32) (ebpf.MapID, error)
	pin     func(table *ebpf.Map, name string) error
	unpin   func(name string) error
}

// put runs write, which enters a table in its slot, so that at no time the map of
// tables has one that nothing keeps.
func (k *tableKeeper) put(slot uint32, table *ebpf.Map, id ebpf.MapID, write func() error) error {
	was, err := k.current(slot)
	if err != nil {
		return err
	}
	name := tablePin(slot, id)
	if err := k.pin(table, name); err != nil {
		return fmt.Errorf("pin the Maglev table of slot %d: %w", slot, err)
	}
	if err := write(); err != nil {
		return errors.Join(err, k.unpin(name))
	}
	if was == 0 {
		return nil
	}
	return k.unpin(tablePin(slot, was))
}

// remove runs remove, which takes the slot's table out, and lets go of it.
func (k *tableKeeper) remove(slot uint32, remove func() error) error {
	was, err := k.current(slot)
	if err != nil {
		return err
	}
	if err := remove(); err != nil || was == 0 {
		return err
	}
	return k.unpin(tablePin(slot, was))
}

func tablePin(slot uint32, id ebpf.MapID) string { return fmt.Sprintf("table_%d_%d", slot, id) }
