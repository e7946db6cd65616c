package datapath

import (
	"net/netip"
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
	if c, err := m.Config(); err != nil || c.Address4.IsValid() || c.Address6.IsValid() {
		t.Errorf("config before it was put: %+v, %v", c, err)
	}
	config := DefaultConfig()
	config.Address4, config.Address6, config.MTU, config.MAC = addr("20.1.1.1"), addr("fd20::1"), 1500, MAC{2, 0, 0, 0, 0, 1}
	check(t, m.PutConfig(config))
	config.Layout = layoutVersion
	check(t, m.readConfigLocked())
	if got, err := m.Config(); err != nil || got != config {
		t.Errorf("config: got %+v, %v, want %+v", got, err, config)
	}
	backends := map[uint32]Backend{
		5: {Address: addrPort("20.1.1.10:80"), State: Active, Outer: netip.MustParsePrefix("10.9.0.0/16"), ServiceID: 7, ServiceSlot: 3},
		6: {Address: addrPort("[fd20::10]:80"), State: Draining, Encap: L2, Outer: netip.MustParsePrefix("fd20::1/128")},
	}
	for id, b := range backends {
		check(t, m.PutBackend(id, b))
	}
	check(t, m.readBackendsLocked())
	if got, err := m.Backends(); err != nil || !reflect.DeepEqual(got, backends) {
		t.Errorf("backends: got %v, %v, want %v", got, err, backends)
	}
	check(t, m.DeleteBackend(5))
	delete(backends, 5)
	check(t, m.readBackendsLocked())
	if got, err := m.Backends(); err != nil || !reflect.DeepEqual(got, backends) {
		t.Errorf("backends after the delete: got %v, %v", got, err)
	}
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
		if i%3 == 1 {
			flow.Source, flow.Dest = addrPort("[fd20::100]:40000"), netip.AddrPortFrom(addr("fd40::1"), uint16(i+1))
		}
		check(t, m.PutConn(flow, Conn{RxBytes: uint64(i), BackendID: 3, NATPort: 40001, Mode: SNAT, Flags: SeenNonSYN | Reset, New: i%2 == 0}))
		check(t, m.PutNAT(flow, NAT{Client: flow.Source, VIP: flow.Dest, BackendID: 3, New: i%2 == 0}))
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
		if f.NAT.Client != f.Flow.Source || f.NAT.VIP != f.Flow.Dest || f.NAT.BackendID != 3 {
			t.Fatalf("way back: %+v", f)
		}
	}
	if len(seen) != n || nats != n {
		t.Errorf("saw %d flows and %d ways back, want %d of each", len(seen), nats, n)
	}
	flow := Flow{Source: addrPort("20.1.1.100:40000"), Dest: addrPort("40.1.1.1:19"), Protocol: TCP}
	want := Conn{RxBytes: 18, BackendID: 3, NATPort: 40001, Mode: SNAT, Flags: SeenNonSYN | Reset, New: true}
	if seen[flow] != want {
		t.Errorf("flow %v: got %+v, want %+v", flow, seen[flow], want)
	}
	check(t, m.DeleteConn(flow))
	if _, ok, err := m.Conn(flow); ok || err != nil {
		t.Errorf("after the delete: %t, %v", ok, err)
	}
}
