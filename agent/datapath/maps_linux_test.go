package datapath

import (
	"reflect"
	"slices"
	"testing"

	"l4lab/bpf"
)

func TestMapsGiveBackWhatWasPut(t *testing.T) {
	h := newHost(t)
	d := h.mustStart(t)
	defer d.Close()
	m := d.Maps()
	if c, err := m.Config(); err != nil || c.Address.String() != "0.0.0.0" {
		t.Errorf("config before it was put: %+v, %v", c, err)
	}
	config := DefaultConfig()
	config.Address, config.MTU, config.MAC = addr("20.1.1.1"), 1500, MAC{2, 0, 0, 0, 0, 1}
	check(t, m.PutConfig(config))
	if got, err := m.Config(); err != nil || got != config {
		t.Errorf("config: got %+v, %v, want %+v", got, err, config)
	}
	backend := Backend{Address: addrPort("20.1.1.10:80"), Protocol: UDP}
	check(t, m.PutBackend(5, backend))
	if got, err := m.Backends(); err != nil || !reflect.DeepEqual(got, map[uint32]Backend{5: backend}) {
		t.Errorf("backends: got %v, %v", got, err)
	}
	check(t, m.DeleteBackend(5))
	if got, err := m.Backends(); err != nil || len(got) != 0 {
		t.Errorf("backends after the delete: got %v, %v", got, err)
	}
	mac := MAC{2, 0, 0, 0, 0, 9}
	check(t, m.PutNeighbour(addr("20.1.1.10"), mac))
	if got, err := m.Neighbours(); err != nil || got[addr("20.1.1.10")] != mac || len(got) != 1 {
		t.Errorf("neighbours: got %v, %v", got, err)
	}
	check(t, m.DeleteNeighbour(addr("20.1.1.10")))
	check(t, m.DeleteNeighbour(addr("20.1.1.10"))) // nothing there: fine
	if drops, err := m.Drops(); err != nil || len(drops) != int(bpf.LBDropReasonDROP_REASON_MAX)-1 || drops["no_backend"] != 0 {
		t.Errorf("drops: got %v, %v", drops, err)
	}
}

func TestTablesOfEverySizeGiveBackWhatWasPut(t *testing.T) {
	h := newHost(t)
	d := h.mustStart(t)
	defer d.Close()
	m := d.Maps()
	if table, err := m.Table(1); err != nil || table != nil {
		t.Errorf("a slot without a table: got %v, %v", table, err)
	}
	for _, size := range []int{251, 16381, 131071} {
		table := make([]uint32, size)
		for i := range table {
			table[i] = uint32(i*7 + 1)
		}
		check(t, m.PutTable(1, table))
		if got, err := m.Table(1); err != nil || !slices.Equal(got, table) {
			t.Errorf("table of %d: got %d slots, %v", size, len(got), err)
		}
	}
	check(t, m.PutTable(9, make([]uint32, 251)))
	slots, err := m.Slots()
	slices.Sort(slots)
	if err != nil || !slices.Equal(slots, []uint32{1, 9}) {
		t.Errorf("slots: got %v, %v", slots, err)
	}
	check(t, m.DeleteTable(1))
	check(t, m.DeleteTable(1))
}

func TestFlowsGiveBackWhatWasPut(t *testing.T) {
	h := newHost(t)
	d := h.mustStart(t)
	defer d.Close()
	m := d.Maps()
	const n = 3000 // several batches
	for i := range n {
		flow := Flow{Source: addrPort("20.1.1.100:40000"), Dest: addrPort("40.1.1.1:80"), Protocol: TCP}
		flow.Dest = withPort(flow.Dest, uint16(i+1))
		check(t, m.PutConn(flow, Conn{RxBytes: uint64(i), Backend: addrPort("20.1.1.10:80"), NATPort: 40001, Mode: SNAT, Flags: SeenNonSYN | Reset}))
		check(t, m.PutNAT(flow, NAT{Client: addrPort("20.1.1.100:40000"), VIP: addrPort("40.1.1.1:80"), BackendID: 3}))
	}
	seen := make(map[Flow]Conn)
	for f, err := range m.Conns() {
		check(t, err)
		seen[f.Flow] = f.Conn
	}
	nats := 0
	for f, err := range m.NATs() {
		check(t, err)
		nats++
		if f.NAT.Client != addrPort("20.1.1.100:40000") || f.NAT.VIP != addrPort("40.1.1.1:80") || f.NAT.BackendID != 3 {
			t.Fatalf("way back: %+v", f)
		}
	}
	if len(seen) != n || nats != n {
		t.Errorf("saw %d flows and %d ways back, want %d of each", len(seen), nats, n)
	}
	flow := Flow{Source: addrPort("20.1.1.100:40000"), Dest: addrPort("40.1.1.1:17"), Protocol: TCP}
	want := Conn{RxBytes: 16, Backend: addrPort("20.1.1.10:80"), NATPort: 40001, Mode: SNAT, Flags: SeenNonSYN | Reset}
	if seen[flow] != want {
		t.Errorf("flow %v: got %+v, want %+v", flow, seen[flow], want)
	}
	check(t, m.DeleteConn(flow))
	if _, ok, err := m.Conn(flow); ok || err != nil {
		t.Errorf("after the delete: %t, %v", ok, err)
	}
}
