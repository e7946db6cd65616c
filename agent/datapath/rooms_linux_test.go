package datapath

import (
	"fmt"
	"testing"

	"l4lab/bpf"
)

// A scrape of the metrics must not walk over millions of flows when the sweep has just done so.
func TestTablesAreCountedByWalksThatAreMadeAnyway(t *testing.T) {
	d := newHost(t).mustStart(t)
	defer d.Close()
	m := d.Maps()
	flow := func(n int) Flow {
		return Flow{Source: addrPort(fmt.Sprintf("20.1.1.100:%d", 1024+n)), Dest: addrPort("40.1.1.1:80"), Protocol: TCP}
	}
	used := func() uint64 {
		t.Helper()
		rooms, err := m.Rooms()
		check(t, err)
		return rooms[bpf.LBMapFlows4].Used
	}
	for n := range 3 {
		check(t, m.PutConn(flow(n), Conn{BackendID: 1, Mode: DSR}))
	}
	if n := used(); n != 3 {
		t.Errorf("a table that was never walked: counted %d, want 3", n)
	}
	check(t, m.PutConn(flow(3), Conn{BackendID: 1, Mode: DSR}))
	if n := used(); n != 3 {
		t.Errorf("a moment later it was walked again: counted %d", n)
	}
	for _, err := range m.Conns() {
		check(t, err)
		break // no whole walk counts nothing
	}
	if n := used(); n != 3 {
		t.Errorf("after the beginning of a walk: counted %d, want 3", n)
	}
	for _, err := range m.Conns() {
		check(t, err)
	}
	if n := used(); n != 4 {
		t.Errorf("after a walk: counted %d, want 4", n)
	}
}
