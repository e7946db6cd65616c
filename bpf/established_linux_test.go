package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

func TestAFlowsSecondPacketEstablishesIt(t *testing.T) {
	cases := map[string]struct {
		packets     []packet
		established bool
	}{
		"a SYN does not":                      {[]packet{request(40000, "S")}, false},
		"nor the SYN sent again":              {[]packet{request(40000, "S"), request(40000, "S")}, false},
		"nor a reset":                         {[]packet{request(40000, "S"), request(40000, "R")}, false},
		"an ACK does":                         {[]packet{request(40000, "S"), request(40000, "A")}, true},
		"a FIN does":                          {[]packet{request(40000, "S"), request(40000, "FA")}, true},
		"a SYN-ACK does":                      {[]packet{request(40000, "S"), request(40000, "SA")}, true},
		"an ACK after two SYNs does":          {[]packet{request(40000, "S"), request(40000, "S"), request(40000, "A")}, true},
		"a first packet amid a stream is one": {[]packet{request(40000, "A")}, false},
		"a second packet amid a stream does":  {[]packet{request(40000, "A"), request(40000, "A")}, true},
		"a datagram does not":                 {[]packet{datagram(40000, "a")}, false},
		"a second datagram does":              {[]packet{datagram(40000, "a"), datagram(40000, "b")}, true},
	}
	for mode, make := range modes {
		for name, c := range cases {
			t.Run(mode+", "+name, func(t *testing.T) {
				b := make(t)
				for _, p := range c.packets {
					b.forward(p)
				}
				b.wantHalves(c.established, mode == "SNAT")
				e := b.entry(c.packets[0])
				if e.RxPackets != uint64(len(c.packets)) {
					t.Errorf("the entry counts %d packets of %d", e.RxPackets, len(c.packets))
				}
			})
		}
	}
	t.Run("a backend's reply does not", func(t *testing.T) {
		b := snatBalancer(t)
		b.forward(request(40000, "S"))
		b.forward(answer(3, 40000, 6, "SA"))
		b.wantHalves(false, true)
		b.forward(request(40000, "A"))
		b.wantHalves(true, true)
		if e := b.entry(request(40000, "")); e.RxPackets != 2 || e.TxPackets != 1 {
			t.Errorf("the entry lost counts as it moved: %+v", e)
		}
	})
}

// wantHalves checks that the only flow is in one table of two, and so its way back.
func (b *balancer) wantHalves(established, translated bool) {
	b.t.Helper()
	in := func(here bool) int {
		if here {
			return 1
		}
		return 0
	}
	o := b.objects
	got := [4]int{count(b.t, o.Flows4), count(b.t, o.NewFlows4), count(b.t, o.Nat4), count(b.t, o.NewNat4)}
	want := [4]int{in(established), in(!established), in(established && translated), in(!established && translated)}
	if got != want {
		b.t.Fatalf("flows, new_flows, nat, new_nat have %v entries, want %v", got, want)
	}
}

func TestAnEstablishedFlowThatIsOpenedAnewIsNew(t *testing.T) {
	b := snatBalancer(t)
	for _, flags := range []string{"S", "A", "R", "S"} {
		b.forward(request(40000, flags))
	}
	b.wantHalves(false, true)
	b.forward(request(40000, "A"))
	b.wantHalves(true, true)
}

// TestASYNFloodPushesOutNoEstablishedFlow sends ten times as many SYNs as the
// table of new flows holds.
func TestASYNFloodPushesOutNoEstablishedFlow(t *testing.T) {
	const capacity, flood, kept = 512, 10 * 512, 500
	b := newBalancerOf(t, func(maps map[string]*ebpf.MapSpec) {
		maps[LBMapNewFlows4].MaxEntries = capacity
		maps[LBMapNewNat4].MaxEntries = capacity
	})
	for name, mode := range map[string]LBLbMode{"DSR": LBLbModeLB_MODE_DSR, "SNAT": LBLbModeLB_MODE_SNAT} {
		t.Run(name, func(t *testing.T) {
			emptyMaps(t, b.objects)
			b := begin(t, b.objects)
			b.serveBoth(mode, 3)
			firstPort := uint16(natMin)
			for i := range uint16(kept) {
				for _, flags := range []string{"S", "A"} {
					b.quick(request(firstPort+i, flags).frame(t), xdpTX)
				}
			}
			flows, ways := dump(t, b.objects.Flows4), dump(t, b.objects.Nat4)
			if want := map[string]int{"DSR": 0, "SNAT": kept}[name]; len(flows) != kept || len(ways) != want {
				t.Fatalf("%d flows with %d ways back are established, want %d and %d", len(flows), len(ways), kept, want)
			}

			syn := request(1, "S").frame(t)
			for i := range uint32(flood) {
				binary.BigEndian.PutUint32(syn[26:], 0x0a000000+i)
				binary.BigEndian.PutUint16(syn[34:], uint16(1024+i))
				b.quick(syn, xdpTX)
			}
			if n := count(t, b.objects.NewFlows4); n < capacity/2 || n > capacity {
				t.Errorf("%d new flows of a table of %d", n, capacity)
			}

			equalMaps(t, "established flows", dump(t, b.objects.Flows4), flows)
			equalMaps(t, "ways back", dump(t, b.objects.Nat4), ways)
			for i := range uint16(kept) {
				p := request(firstPort+i, "A")
				m := backendMAC(3)
				out := b.quick(p.frame(t), xdpTX)
				if mode == LBLbModeLB_MODE_DSR {
					equalFrames(t, out, encapsulated(t, p.frame(t), lbMAC, m[:], lbAddress, backendAddress(3)))
					continue
				}
				equalFrames(t, out, translated(p, p.from.Port(), 3).frame(t))
				reply := answer(3, p.from.Port(), 6, "A")
				equalFrames(t, b.quick(reply.frame(t), xdpTX), translatedBack(reply, web, p.from).frame(t))
			}
			if got := b.counters(); len(got.drops) != 0 || got.service[1].Connections != kept+flood {
				t.Errorf("drops %v, %d connections, want none and %d", got.drops, got.service[1].Connections, kept+flood)
			}
		})
	}
}

// quick runs the program on one of many frames without looking at the counters.
func (b *balancer) quick(frame []byte, want uint32) []byte {
	b.t.Helper()
	verdict, out, err := b.objects.Lb.Test(frame)
	must(b.t, err)
	if verdict != want {
		b.t.Fatalf("verdict %d, want %d; drops %v", verdict, want, b.counters().drops)
	}
	return out
}

// dump reads a map's bytes.
func dump(t testing.TB, m *ebpf.Map) map[string][]byte {
	t.Helper()
	content := map[string][]byte{}
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		content[string(key)] = bytes.Clone(value)
	}
	must(t, entries.Err())
	return content
}

func equalMaps(t *testing.T, what string, got, want map[string][]byte) {
	t.Helper()
	var faults []string
	for key, value := range want {
		if !bytes.Equal(got[key], value) {
			faults = append(faults, fmt.Sprintf("%x: %x, was %x", key, got[key], value))
		}
	}
	if len(faults) > 0 || len(got) != len(want) {
		t.Errorf("%s: %d entries, were %d; %d of those changed: %v", what, len(got), len(want), len(faults), faults[:min(len(faults), 3)])
	}
}

func TestAFloodOfFirstDatagramsPushesOutNoEstablishedFlow(t *testing.T) {
	b := snatBalancer(t)
	for _, payload := range []string{"a", "b"} {
		b.forward(datagram(40000, payload))
	}
	first := datagram(1, "x")
	for i := range uint32(2 * testFlows) {
		first.from = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 5353)
		if i%512 == 0 {
			b.forward(first)
			continue
		}
		frame := first.frame(t)
		b.quick(frame, xdpTX)
	}
	if !b.established(datagram(40000, "")) {
		t.Fatal("the established flow is not there any more")
	}
	reply := answer(3, 40000, uint8(udp), "")
	equalFrames(t, b.forward(reply), translatedBack(reply, dns, datagram(40000, "").from).frame(t))
}
