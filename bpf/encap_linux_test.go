package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

func TestLayer2ChangesOnlyTheMACs(t *testing.T) {
	with := func(change func(*packet)) packet {
		p := request(40000, "PA")
		p.payload = []byte("data")
		change(&p)
		return p
	}
	for name, p := range map[string]packet{
		"a SYN":                       request(40000, "S"),
		"a segment":                   with(func(*packet) {}),
		"TOS, id and flags":           with(func(p *packet) { p.tos, p.id, p.fragment = 0xb8, 7, layers.IPv4DontFragment }),
		"IP options":                  with(func(p *packet) { p.options = ipOptions(3) }),
		"the smallest TTL that lives": with(func(p *packet) { p.ttl = 2 }),
		"padding behind the packet":   with(func(p *packet) { p.padding = make([]byte, 6) }),
		"a datagram":                  datagram(40000, "query"),
		"a datagram unsummed":         func() packet { p := datagram(40000, "query"); p.unsummed = true; return p }(),
	} {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer(t)
			for _, id := range []uint32{3, udpBackend(3)} {
				b.changeBackend(id, func(e *LBBackend) { e.Encap = LBLbEncapLB_ENCAP_L2 })
			}
			for range 3 { // new, established, and on the fast path
				equalFrames(t, b.forward(p), switched(p.frame(t)))
			}
		})
	}
}

func TestLayer2StillSparesWhatMayNotBeForwarded(t *testing.T) {
	b := dsrBalancer(t)
	b.changeBackend(3, func(e *LBBackend) { e.Encap = LBLbEncapLB_ENCAP_L2 })
	old := request(40000, "S")
	old.ttl = 1
	b.drop(old.frame(t), "ttl_expired")
	b.changeBackend(3, func(e *LBBackend) { e.MacSlot = 2 })
	b.drop(request(40000, "S").frame(t), "no_neighbour")
}

func TestTheSecondMACCountsWhenTheEntrySaysSo(t *testing.T) {
	for name, encap := range map[string]LBLbEncap{"IP-in-IP": LBLbEncapLB_ENCAP_IPIP, "layer 2": LBLbEncapLB_ENCAP_L2} {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer(t)
			b.changeBackend(3, func(e *LBBackend) { e.Mac[1], e.Encap = [6]uint8(otherMAC), encap })
			for slot, want := range [][6]uint8{backendMAC(3), [6]uint8(otherMAC), backendMAC(3)} {
				b.changeBackend(3, func(e *LBBackend) { e.MacSlot = uint8(slot % 2) })
				for range 2 {
					if got := [6]uint8(b.forward(request(40000, "A"))[:6]); got != want {
						t.Errorf("slot %d: sent to %x, want %x", slot%2, got, want)
					}
				}
			}
		})
	}
}

func TestTheOuterSourceIsTheBackendEntrys(t *testing.T) {
	b := dsrBalancer(t)
	from := netip.MustParseAddr("10.20.30.40")
	b.changeBackend(3, func(e *LBBackend) { e.Outer = wire(from) })
	m := backendMAC(3)
	for i := range uint16(4) {
		p := request(40000+i, "S")
		equalFrames(t, b.forward(p), encapsulated(t, p.frame(t), lbMAC, m[:], from, backendAddress(3)))
	}
}

func TestTheOuterSourceIsSpreadOverTheMask(t *testing.T) {
	for _, spread := range []string{"0.0.255.255", "0.0.0.255", "0.0.3.15", "0.0.0.1"} {
		t.Run(spread, func(t *testing.T) {
			b := dsrBalancer(t)
			base, mask := netip.MustParseAddr("10.20.0.0"), wire(netip.MustParseAddr(spread)).Word[0]
			for _, id := range []uint32{3, udpBackend(3)} {
				b.changeBackend(id, func(e *LBBackend) { e.Outer, e.OuterSpread = wire(base), mask })
			}
			seen := map[netip.Addr]bool{}
			for i := range uint16(32) {
				for _, p := range []packet{request(1024+i, "A"), datagram(1024+i, "query")} {
					word := wire(base).Word[0] | oracleHash(p.from, p.to, uint8(p.proto))&mask
					from, _ := netip.AddrFromSlice(binary.NativeEndian.AppendUint32(nil, word))
					seen[from] = true
					m := backendMAC(3)
					for range 3 { // always the same, also on the fast path
						equalFrames(t, b.forward(p), encapsulated(t, p.frame(t), lbMAC, m[:], from, backendAddress(3)))
					}
				}
			}
			if spread == "0.0.255.255" && len(seen) < 50 || len(seen) < 2 {
				t.Errorf("64 flows come from %d sources", len(seen))
			}
		})
	}
}

func TestAFlowsFragmentsHaveOneOuterSource(t *testing.T) {
	b := dsrBalancer(t)
	b.changeBackend(udpBackend(3), func(e *LBBackend) { e.OuterSpread = wire(netip.MustParseAddr("0.0.255.255")).Word[0] })
	var sources [][4]byte
	for _, f := range split(long()["UDP"].frame(t), 64, 64, 64) {
		sources = append(sources, [4]byte(b.forwardFrame(f)[26:30]))
	}
	for _, s := range sources {
		if s != sources[0] {
			t.Errorf("fragments of one packet come from %v", sources)
		}
	}
}
