package maglev

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// plainHash writes the facts' description down a second time, apart from the
// one that is tested: bytes of the packet in, lookup3's steps as tables.
func plainHash(from, to netip.AddrPort, protocol uint8) uint32 {
	packet := from.Addr().AsSlice()
	packet = binary.BigEndian.AppendUint16(packet, from.Port())
	packet = binary.BigEndian.AppendUint16(packet, to.Port())
	var words []uint32
	for at := 0; at < len(packet); at += 4 {
		words = append(words, binary.LittleEndian.Uint32(packet[at:]))
	}
	words = append(words, uint32(protocol))

	const a, b, c = 0, 1, 2
	var w [3]uint32
	add := func(values ...uint32) {
		for i, v := range values {
			w[i] += v
		}
	}
	rotate := func(v uint32, by int) uint32 { return v<<by | v>>(32-by) }
	mix := func() {
		for _, s := range []struct{ target, source, other, by int }{
			{a, c, b, 4}, {b, a, c, 6}, {c, b, a, 8}, {a, c, b, 16}, {b, a, c, 19}, {c, b, a, 4},
		} {
			w[s.target] = (w[s.target] - w[s.source]) ^ rotate(w[s.source], s.by)
			w[s.source] += w[s.other]
		}
	}
	final := func() uint32 {
		for _, s := range []struct{ target, source, by int }{
			{c, b, 14}, {a, c, 11}, {b, a, 25}, {c, b, 16}, {a, c, 4}, {b, a, 14}, {c, b, 24},
		} {
			w[s.target] = (w[s.target] ^ w[s.source]) - rotate(w[s.source], s.by)
		}
		return w[c]
	}

	if len(words) == 3 {
		const initial = (0xdeadbeef + 12 + 1910299206) % (1 << 32)
		add(initial, initial, initial)
		add(words...)
		return final()
	}
	add(words[:3]...)
	mix()
	add(words[3:]...)
	mix()
	add(2454738568)
	return final()
}

func FuzzSlot(f *testing.F) {
	f.Add([]byte{20, 1, 1, 100}, uint16(40000), uint16(80), uint8(6), uint32(16381), false)
	f.Add([]byte{20, 1, 1, 100}, uint16(40000), uint16(53), uint8(17), uint32(251), true)
	f.Add(netip.MustParseAddr("fd00::1").AsSlice(), uint16(40000), uint16(443), uint8(6), uint32(131071), false)
	f.Add(netip.MustParseAddr("::ffff:20.1.1.100").AsSlice(), uint16(1), uint16(65535), uint8(58), uint32(1), true)
	f.Fuzz(func(t *testing.T, client []byte, sport, dport uint16, protocol uint8, size uint32, affinity bool) {
		address, ok := netip.AddrFromSlice(client)
		if !ok || size == 0 {
			return
		}
		from := netip.AddrPortFrom(address, sport)
		hashed := from
		if affinity {
			hashed = netip.AddrPortFrom(address, 0)
		}
		for _, vip := range []string{"40.1.1.1", "fd40::1"} {
			to := netip.AddrPortFrom(netip.MustParseAddr(vip), dport)
			if got, want := Slot(from, to, protocol, size, affinity), plainHash(hashed, to, protocol)%size; got != want {
				t.Errorf("%s -> %s, protocol %d, %d slots, affinity %v: slot %d, want %d", from, to, protocol, size, affinity, got, want)
			}
		}
	})
}

// Values of the C of Cilium's bpf/lib/hash.h, compiled and run.
func TestFlowHashIsCiliums(t *testing.T) {
	for _, c := range []struct {
		from, to string
		protocol uint8
		want     uint32
	}{
		{"20.1.1.100:40000", "40.1.1.1:80", 6, 0x39367f09},
		{"20.1.1.100:0", "40.1.1.1:80", 6, 0x84e2674a},
		{"255.255.255.255:65535", "40.1.1.1:53", 17, 0x0e844ae6},
		{"[fd20::100]:40000", "[fd40::1]:80", 6, 0xb32c4567},
		{"[fd20::100]:0", "[fd40::1]:80", 6, 0xb6c60678},
		{"[2001:db8:1:2:3:4:5:6]:65535", "[fd40::1]:53", 17, 0x941bbf8f},
		{"[::ffff:20.1.1.100]:40000", "[fd40::1]:80", 6, 0xd93b6364},
	} {
		from, to := netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.to)
		if got := FlowHash(from, to, c.protocol); got != c.want {
			t.Errorf("%s -> %s, protocol %d: %#08x, want %#08x", from, to, c.protocol, got, c.want)
		}
	}
}

func TestFlowsSpreadOverTheTable(t *testing.T) {
	const size = 251
	for _, client := range []string{"20.1.1.100", "fd20::100"} {
		hit := make([]int, size)
		for port := range 60000 {
			from := netip.AddrPortFrom(netip.MustParseAddr(client), uint16(port))
			hit[Slot(from, netip.MustParseAddrPort("40.1.1.1:80"), tcp, size, false)]++
		}
		for slot, n := range hit {
			if n < 100 || n > 400 { // 239 expected
				t.Errorf("slot %d got %d of 60000 flows of %s", slot, n, client)
			}
		}
	}
}

func TestEveryPartOfTheFlowCounts(t *testing.T) {
	for _, c := range []struct {
		family, client, vip string
		others              []string
	}{
		{"IPv4", "20.1.1.100:40000", "40.1.1.1", []string{"20.1.1.101:40000", "20.1.1.100:40001"}},
		{"IPv6", "[fd20::100]:40000", "fd40::1", []string{
			"[fd20::101]:40000", "[fd20::1:0:100]:40000", "[fd20::1:0:0:100]:40000", "[fd21::100]:40000", "[fd20::100]:40001",
		}},
	} {
		t.Run(c.family, func(t *testing.T) {
			to := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(c.vip), port) }
			from := netip.MustParseAddrPort(c.client)
			base := FlowHash(from, to(80), 6)
			for _, other := range c.others {
				if FlowHash(netip.MustParseAddrPort(other), to(80), 6) == base {
					t.Errorf("%s and %s have the same hash", c.client, other)
				}
			}
			if FlowHash(from, to(81), 6) == base {
				t.Error("the destination port does not count")
			}
			if FlowHash(from, to(80), 17) == base {
				t.Error("the protocol does not count")
			}
		})
	}
}

func TestSlotWithAffinityDoesNotDependOnTheClientsPort(t *testing.T) {
	to := netip.MustParseAddrPort("[fd40::1]:80")
	for _, client := range []string{"20.1.1.100", "fd20::100"} {
		address := netip.MustParseAddr(client)
		want := Slot(netip.AddrPortFrom(address, 0), to, tcp, 16381, false)
		for port := range uint16(100) {
			if got := Slot(netip.AddrPortFrom(address, port), to, tcp, 16381, true); got != want {
				t.Errorf("%s, port %d: slot %d, want %d", client, port, got, want)
			}
		}
	}
}
