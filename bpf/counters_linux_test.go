package bpf

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// counters are all of the balancer's, as sums over the CPUs; zeros are left out.
type counters struct {
	service, backend map[uint32]LBTraffic
	drops            map[string]uint64
	icmp             map[LBIcmpDeed]uint64
}

const countedServices, countedBackends = 4, 16

func (b *balancer) counters() counters {
	b.t.Helper()
	c := counters{sums(b.t, b.objects.ServiceStats, countedServices, add),
		sums(b.t, b.objects.BackendStats, countedBackends, add), map[string]uint64{}, map[LBIcmpDeed]uint64{}}
	for i, n := range sums(b.t, b.objects.Drops, uint32(len(b.reasons)), plus) {
		c.drops[b.reasons[i]] = n
	}
	for i, n := range sums(b.t, b.objects.IcmpPackets, uint32(LBIcmpDeedICMP_DEED_MAX), plus) {
		c.icmp[LBIcmpDeed(i)] = n
	}
	return c
}

func plus(a, b uint64) uint64 { return a + b }

// sums adds up the first n entries of a per-CPU array over the CPUs, and leaves out
// those that are zero. Every frame's counters are read: by one call for each map.
func sums[V comparable](t testing.TB, m *ebpf.Map, n uint32, plus func(a, b V) V) map[uint32]V {
	t.Helper()
	cpus := ebpf.MustPossibleCPU()
	keys, values := make([]uint32, n), make([]V, int(n)*cpus)
	if _, err := m.BatchLookup(new(ebpf.MapBatchCursor), keys, values, nil); !errors.Is(err, ebpf.ErrKeyNotExist) {
		must(t, err)
	}
	var zero V
	sums := map[uint32]V{}
	for i, key := range keys {
		sum := zero
		for _, v := range values[i*cpus : (i+1)*cpus] {
			sum = plus(sum, v)
		}
		if sum != zero {
			sums[key] = sum
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
// uncounted, one that was dropped counts under one reason. One that left is one
// packet of its IP length of one service and of one backend, or else one deed of
// ICMP, which stands for a drop as well when it tells that a packet is too big.
func (b *balancer) send(frame []byte) (verdict uint32, out []byte) {
	b.t.Helper()
	verdict, out, before, after := b.onBoth(frame)
	dropped := sum(after.drops) - sum(before.drops)
	deeds := sum(after.icmp) - sum(before.icmp)
	tooBig := after.icmp[LBIcmpDeedICMP_TOO_BIG_SENT] - before.icmp[LBIcmpDeedICMP_TOO_BIG_SENT]
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
		if dropped != 0 || deeds != 0 || services != was {
			b.t.Fatalf("a packet that passed was counted: before %+v, after %+v", before, after)
		}
	case xdpTX:
		if packets+deeds != 1 || dropped != tooBig {
			b.t.Fatalf("a packet left: counted %d packets, %d deeds of ICMP, %d drops", packets, deeds, dropped)
		}
		if want := packets * ipLength(frame); octets != want {
			b.t.Fatalf("a packet of %d bytes left: counted %d bytes", want, octets)
		}
	case xdpDrop:
		if dropped != 1 || deeds != 0 || services != was {
			b.t.Fatalf("a drop was counted %d times: before %+v, after %+v", dropped, before, after)
		}
	default:
		b.t.Fatalf("the program returned %d", verdict)
	}
	return verdict, out
}

// ipLength is the length of a frame's IP packet, its header included, as it says itself.
func ipLength(frame []byte) uint64 {
	if binary.BigEndian.Uint16(frame[12:]) == 0x86dd {
		return 40 + uint64(binary.BigEndian.Uint16(frame[18:]))
	}
	return uint64(binary.BigEndian.Uint16(frame[16:]))
}

func sum[K comparable](m map[K]uint64) (n uint64) {
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
