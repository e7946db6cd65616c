package bpf

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// key is a flow's key in the tables of its family.
func key(from, to netip.AddrPort, proto uint8) any {
	if from.Addr().Is6() {
		return LBFlow{
			Saddr: wire(from.Addr()), Daddr: wire(to.Addr()), Sport: port(from.Port()), Dport: port(to.Port()), Proto: proto,
		}
	}
	return LBFlow4{
		Saddr: wire(from.Addr()).Word[0], Daddr: wire(to.Addr()).Word[0],
		Sport: port(from.Port()), Dport: port(to.Port()), Proto: proto,
	}
}

// tables are the maps of established and of new flows of a family, and of their ways back.
func (b *balancer) tables(six bool) (flows, newFlows, nat, newNAT *ebpf.Map) {
	if six {
		return b.objects.Flows6, b.objects.NewFlows6, b.objects.Nat6, b.objects.NewNat6
	}
	return b.objects.Flows4, b.objects.NewFlows4, b.objects.Nat4, b.objects.NewNat4
}

// find reads an entry from the table of the established, or else from that of the new.
func find[V any](t testing.TB, key any, established, fresh *ebpf.Map) (v V, in *ebpf.Map) {
	t.Helper()
	for _, m := range []*ebpf.Map{established, fresh} {
		err := m.Lookup(key, &v)
		if err == nil {
			return v, m
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatal(err)
		}
	}
	return v, nil
}

// entry returns the conntrack entry of a client's packet.
func (b *balancer) entry(p packet) LBCtEntry {
	b.t.Helper()
	flows, newFlows, _, _ := b.tables(p.from.Addr().Is6())
	e, in := find[LBCtEntry](b.t, key(p.from, p.to, uint8(p.proto)), flows, newFlows)
	if in == nil {
		b.t.Fatalf("no conntrack entry for %v -> %v", p.from, p.to)
	}
	return e
}

// established says whether a client's flow is in the table of established ones.
func (b *balancer) established(p packet) bool {
	b.t.Helper()
	flows, newFlows, _, _ := b.tables(p.from.Addr().Is6())
	_, in := find[LBCtEntry](b.t, key(p.from, p.to, uint8(p.proto)), flows, newFlows)
	return in == flows
}

// monotonic is the clock of the tables.
func monotonic(t testing.TB) uint64 {
	t.Helper()
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now))
	return uint64(now.Nano())
}

// age makes a flow look as if its last packet had come that long ago.
func (b *balancer) age(p packet, by time.Duration) {
	b.t.Helper()
	now := monotonic(b.t)
	if now < uint64(by) {
		b.t.Fatalf("this machine has been up for less than %v", by)
	}
	flows, newFlows, _, _ := b.tables(p.from.Addr().Is6())
	k := key(p.from, p.to, uint8(p.proto))
	e, in := find[LBCtEntry](b.t, k, flows, newFlows)
	if in == nil {
		b.t.Fatalf("no conntrack entry for %v -> %v", p.from, p.to)
	}
	e.LastSeenNs = now - uint64(by)
	e.WayBackNs = min(e.WayBackNs, e.LastSeenNs)
	must(b.t, in.Put(k, e))
}

// evict takes away a flow's conntrack entry, as an LRU does when it is full.
func (b *balancer) evict(p packet) {
	b.t.Helper()
	flows, newFlows, _, _ := b.tables(p.from.Addr().Is6())
	k := key(p.from, p.to, uint8(p.proto))
	if _, in := find[LBCtEntry](b.t, k, flows, newFlows); in != nil {
		must(b.t, in.Delete(k))
		return
	}
	b.t.Fatalf("no conntrack entry for %v -> %v", p.from, p.to)
}

// evictWayBack takes away the entry under which a backend's reply finds its client.
func (b *balancer) evictWayBack(reply packet) {
	b.t.Helper()
	_, _, nat, newNAT := b.tables(reply.from.Addr().Is6())
	k := key(reply.from, reply.to, uint8(reply.proto))
	if _, in := find[LBNatEntry](b.t, k, nat, newNAT); in != nil {
		must(b.t, in.Delete(k))
		return
	}
	b.t.Fatalf("no way back for %v -> %v", reply.from, reply.to)
}

func count(t testing.TB, m *ebpf.Map) (n int) {
	t.Helper()
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		n++
	}
	must(t, entries.Err())
	return n
}

// wantFlows checks how many flows and ways back there are, new and established, of both families.
func (b *balancer) wantFlows(conntrack, nat int) {
	b.t.Helper()
	o := b.objects
	c := count(b.t, o.Flows4) + count(b.t, o.NewFlows4) + count(b.t, o.Flows6) + count(b.t, o.NewFlows6)
	n := count(b.t, o.Nat4) + count(b.t, o.NewNat4) + count(b.t, o.Nat6) + count(b.t, o.NewNat6)
	if c != conntrack || n != nat {
		b.t.Fatalf("%d conntrack and %d nat entries, want %d and %d", c, n, conntrack, nat)
	}
}
