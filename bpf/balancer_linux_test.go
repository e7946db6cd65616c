package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Verdicts as the kernel returns them (enum xdp_action).
const (
	xdpDrop = 1
	xdpTX   = 3
)

// Maps of the real sizes cost each test tens of megabytes; load_linux_test.go
// loads them once.
const (
	testFlows    = 4096
	testBackends = 512
)

// Lifetimes of the tests, far enough apart to tell one from another and
// shorter than any machine has been up when tests run.
const (
	lifeClosing     = 2 * time.Second
	lifeSYN         = 4 * time.Second
	lifeOther       = 6 * time.Second
	lifeEstablished = 8 * time.Second
)

var (
	lbMAC     = mac("02:00:00:00:00:01")
	routerMAC = mac("02:00:00:00:00:64")
	otherMAC  = mac("02:00:00:00:00:65")
	lbAddress = netip.MustParseAddr("20.1.1.1")
	vip       = netip.MustParseAddr("40.1.1.1")
	client    = netip.MustParseAddr("20.1.1.100")
)

const (
	natMin = 32768
	natMax = 65535
)

// balancer is the lb program in the kernel with maps of its own. Its send
// checks after every frame that counters say what happened, and nothing more.
type balancer struct {
	t       testing.TB
	objects LBObjects
	reasons []string
	config  LBLbConfig
}

func newBalancer(t testing.TB) *balancer {
	t.Helper()
	requireRoot(t)
	b := &balancer{t: t}
	spec, err := LoadLB()
	must(t, err)
	for _, name := range []string{LBMapConntrack, LBMapNat} {
		spec.Maps[name].MaxEntries = testFlows
	}
	for _, name := range []string{LBMapBackends, LBMapBackendStats} {
		spec.Maps[name].MaxEntries = testBackends
	}
	err = spec.LoadAndAssign(&b.objects, nil)
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) {
		t.Fatalf("%+v", rejected)
	}
	must(t, err)
	t.Cleanup(func() { _ = b.objects.Close() })
	b.reasons, err = DropReasons()
	must(t, err)
	b.config = LBLbConfig{
		Address: wire(lbAddress), Mtu: 1500, Mac: [6]uint8(lbMAC), NatMin: natMin, NatMax: natMax,
		TcpEstablishedNs: uint64(lifeEstablished), TcpSynNs: uint64(lifeSYN),
		TcpClosingNs: uint64(lifeClosing), NonTcpNs: uint64(lifeOther),
	}
	b.configure(func(*LBLbConfig) {})
	return b
}

// wire is an address as the maps hold it: its bytes as they lie in the packet.
func wire(a netip.Addr) uint32 {
	four := a.As4()
	return binary.NativeEndian.Uint32(four[:])
}

// port is a port as the maps hold it.
func port(p uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p))
}

func (b *balancer) configure(change func(*LBLbConfig)) {
	b.t.Helper()
	change(&b.config)
	must(b.t, b.objects.Config.Put(uint32(0), b.config))
}

func backendAddress(id uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{20, 1, byte(2 + id>>8), byte(id)})
}

func backendMAC(id uint32) [6]uint8 { return [6]uint8{2, 0xbe, 0, 0, byte(id >> 8), byte(id)} }

func backendPort(id uint32) netip.AddrPort { return netip.AddrPortFrom(backendAddress(id), 8080) }

// serve makes the VIP's port a service whose Maglev slots hold the backends in
// turn, and makes those backends and their neighbours known.
func (b *balancer) serve(id uint32, frontend netip.AddrPort, proto uint8, mode LBLbMode, size uint32, backends ...uint32) {
	b.t.Helper()
	table, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: max(size, 1), Flags: unix.BPF_F_INNER_MAP,
	})
	must(b.t, err)
	defer table.Close()
	for slot := range size {
		if len(backends) > 0 {
			must(b.t, table.Put(slot, backends[int(slot)%len(backends)]))
		}
	}
	for _, backend := range backends {
		must(b.t, b.objects.Backends.Put(backend, LBBackend{
			Address: wire(backendAddress(backend)), Port: port(8080), Proto: proto,
		}))
		must(b.t, b.objects.Neighbours.Put(wire(backendAddress(backend)), LBNeighbour{Mac: backendMAC(backend)}))
	}
	must(b.t, b.objects.Maglev.Put(id, table))
	must(b.t, b.objects.Services.Put(serviceKey(frontend, proto), LBService{
		Id: id, Slot: id, TableSize: size, Mode: mode,
	}))
}

// innerTable opens the Maglev table of a service's slot.
func (b *balancer) innerTable(slot uint32) (*ebpf.Map, error) {
	var inner *ebpf.Map
	if err := b.objects.Maglev.Lookup(slot, &inner); err != nil {
		return nil, fmt.Errorf("table of slot %d: %w", slot, err)
	}
	return inner, nil
}

func serviceKey(frontend netip.AddrPort, proto uint8) LBServiceKey {
	return LBServiceKey{Vip: wire(frontend.Addr()), Port: port(frontend.Port()), Proto: proto}
}

// counters are all of the balancer's, as sums over the CPUs; zeros are left out.
type counters struct {
	service, backend map[uint32]LBTraffic
	drops            map[string]uint64
}

const countedServices, countedBackends = 4, 16

func (b *balancer) counters() counters {
	b.t.Helper()
	c := counters{traffic(b.t, b.objects.ServiceStats, countedServices),
		traffic(b.t, b.objects.BackendStats, countedBackends), map[string]uint64{}}
	for i, reason := range b.reasons {
		var perCPU []uint64
		must(b.t, b.objects.Drops.Lookup(uint32(i), &perCPU))
		for _, n := range perCPU {
			if n > 0 {
				c.drops[reason] += n
			}
		}
	}
	return c
}

func traffic(t testing.TB, m *ebpf.Map, n uint32) map[uint32]LBTraffic {
	t.Helper()
	sums := map[uint32]LBTraffic{}
	for i := range n {
		var perCPU []LBTraffic
		must(t, m.Lookup(i, &perCPU))
		var sum LBTraffic
		for _, c := range perCPU {
			sum = add(sum, c)
		}
		if sum != (LBTraffic{}) {
			sums[i] = sum
		}
	}
	return sums
}

func add(a, b LBTraffic) LBTraffic {
	a.RxPackets += b.RxPackets
	a.RxBytes += b.RxBytes
	a.TxPackets += b.TxPackets
	a.TxBytes += b.TxBytes
	a.Connections += b.Connections
	return a
}

func total(of map[uint32]LBTraffic) LBTraffic {
	var sum LBTraffic
	for _, t := range of {
		sum = add(sum, t)
	}
	return sum
}

// send runs the program on a frame. A frame that passed must be untouched and
// uncounted, one that left is one packet of its IP length of one service and of
// one backend, and one that was dropped counts under one reason.
func (b *balancer) send(frame []byte) (verdict uint32, out []byte) {
	b.t.Helper()
	before := b.counters()
	verdict, out, err := b.objects.Lb.Test(frame)
	must(b.t, err)
	after := b.counters()
	dropped := sum(after.drops) - sum(before.drops)
	services, backends := total(after.service), total(after.backend)
	if services != backends {
		b.t.Fatalf("services counted %+v, backends %+v", services, backends)
	}
	was := total(before.service)
	packets := services.RxPackets + services.TxPackets - was.RxPackets - was.TxPackets
	octets := services.RxBytes + services.TxBytes - was.RxBytes - was.TxBytes
	switch verdict {
	case xdpPass:
		equalFrames(b.t, out, frame)
		if dropped != 0 || services != was {
			b.t.Fatalf("a packet that passed was counted: before %+v, after %+v", before, after)
		}
	case xdpTX:
		want := uint64(binary.BigEndian.Uint16(frame[16:]))
		if dropped != 0 || packets != 1 || octets != want {
			b.t.Fatalf("a packet of %d bytes left: counted %d packets of %d bytes, %d drops", want, packets, octets, dropped)
		}
	case xdpDrop:
		if dropped != 1 || services != was {
			b.t.Fatalf("a drop was counted %d times: before %+v, after %+v", dropped, before, after)
		}
	default:
		b.t.Fatalf("the program returned %d", verdict)
	}
	return verdict, out
}

func sum(m map[string]uint64) (n uint64) {
	for v := range maps.Values(m) {
		n += v
	}
	return n
}

// forward sends a packet that must leave and returns its frame.
func (b *balancer) forward(p packet) []byte {
	b.t.Helper()
	before := b.counters()
	verdict, out := b.send(p.frame(b.t))
	if verdict != xdpTX {
		b.t.Fatalf("verdict %d, want XDP_TX; drops before %v, after %v", verdict, before.drops, b.counters().drops)
	}
	return out
}

// pass sends a frame that must reach the stack untouched.
func (b *balancer) pass(frame []byte) {
	b.t.Helper()
	if verdict, _ := b.send(frame); verdict != xdpPass {
		b.t.Fatalf("verdict %d, want XDP_PASS; drops %v", verdict, b.counters().drops)
	}
}

// drop sends a frame that must be dropped for a reason.
func (b *balancer) drop(frame []byte, reason string) {
	b.t.Helper()
	if !slices.Contains(b.reasons, reason) {
		b.t.Fatalf("no drop reason %q", reason)
	}
	before := b.counters().drops[reason]
	verdict, _ := b.send(frame)
	after := b.counters().drops
	if verdict != xdpDrop || after[reason] != before+1 {
		b.t.Fatalf("verdict %d, drops %v, want one more of %s", verdict, after, reason)
	}
}

// flow is the conntrack key of a client's packet.
func flow(p packet) LBFlowKey {
	return LBFlowKey{
		Saddr: wire(p.from.Addr()), Daddr: wire(p.to.Addr()),
		Sport: port(p.from.Port()), Dport: port(p.to.Port()), Proto: uint8(p.proto),
	}
}

// entry returns the conntrack entry of a client's packet.
func (b *balancer) entry(p packet) LBCtEntry {
	b.t.Helper()
	var e LBCtEntry
	if err := b.objects.Conntrack.Lookup(flow(p), &e); err != nil {
		b.t.Fatalf("no conntrack entry for %v -> %v: %v", p.from, p.to, err)
	}
	return e
}

// age makes a flow look as if its last packet had come that long ago.
func (b *balancer) age(p packet, by time.Duration) {
	b.t.Helper()
	e := b.entry(p)
	var now unix.Timespec
	must(b.t, unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now))
	if now.Nano() < int64(by) {
		b.t.Fatalf("this machine has been up for less than %v", by)
	}
	e.LastSeenNs = uint64(now.Nano()) - uint64(by)
	must(b.t, b.objects.Conntrack.Put(flow(p), e))
}

func count(t testing.TB, m *ebpf.Map) (n int) {
	t.Helper()
	var key LBFlowKey
	value := make([]byte, m.ValueSize())
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		n++
	}
	must(t, entries.Err())
	return n
}

func (b *balancer) wantFlows(conntrack, nat int) {
	b.t.Helper()
	if c, n := count(b.t, b.objects.Conntrack), count(b.t, b.objects.Nat); c != conntrack || n != nat {
		b.t.Fatalf("%d conntrack and %d nat entries, want %d and %d", c, n, conntrack, nat)
	}
}

// request is a client's packet to the VIP's TCP port 80.
func request(sourcePort uint16, flags string) packet {
	return packet{
		sourceMAC: routerMAC, destMAC: lbMAC, proto: tcp, flags: flags, ttl: 64, id: 0x1234,
		from: netip.AddrPortFrom(client, sourcePort), to: netip.AddrPortFrom(vip, 80),
	}
}

// datagram is a client's packet to the VIP's UDP port 53.
func datagram(sourcePort uint16, payload string) packet {
	p := request(sourcePort, "")
	p.proto, p.to, p.payload = udp, netip.AddrPortFrom(vip, 53), []byte(payload)
	return p
}

// translated is what SNAT makes of a client's packet.
func translated(p packet, natPort uint16, backend uint32) packet {
	m := backendMAC(backend)
	p.sourceMAC, p.destMAC = lbMAC, m[:]
	p.from, p.to = netip.AddrPortFrom(lbAddress, natPort), backendPort(backend)
	p.ttl--
	return p
}

// answer is a backend's packet to the balancer.
func answer(backend uint32, natPort uint16, proto uint8, flags string) packet {
	m := backendMAC(backend)
	p := request(0, flags)
	p.sourceMAC, p.destMAC = m[:], lbMAC
	if proto == uint8(udp) {
		p.proto = udp
	}
	p.from, p.to = backendPort(backend), netip.AddrPortFrom(lbAddress, natPort)
	return p
}

// translatedBack is what SNAT makes of a backend's packet.
func translatedBack(p packet, from, to netip.AddrPort) packet {
	p.sourceMAC, p.destMAC = lbMAC, routerMAC
	p.from, p.to = from, to
	p.ttl--
	return p
}

// sourcePort reads the transport's source port out of a frame.
func sourcePort(frame []byte) uint16 { return binary.BigEndian.Uint16(frame[l4Offset(frame):]) }
