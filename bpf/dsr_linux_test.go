package bpf

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// dsrBalancer serves the VIP's TCP port 80 and UDP port 53 in DSR with backend 3.
func dsrBalancer(t testing.TB) *balancer {
	t.Helper()
	b := newBalancer(t)
	b.serveBoth(LBLbModeLB_MODE_DSR, 3)
	return b
}

// ipOptions are a timestamp option that fills n words of IP options.
func ipOptions(words int) []layers.IPv4Option {
	return []layers.IPv4Option{{OptionType: 68, OptionLength: uint8(words * 4), OptionData: make([]byte, words*4-2)}}
}

func TestDSRPutsTheClientsPacketIntoAnOuterHeader(t *testing.T) {
	tcpWith := func(change func(*packet)) packet {
		p := request(40001, "A")
		change(&p)
		return p
	}
	cases := map[string]packet{
		"a SYN":                   request(40000, "S"),
		"a segment with data":     tcpWith(func(p *packet) { p.payload = []byte("GET / HTTP/1.1\r\n\r\n") }),
		"a segment of odd length": tcpWith(func(p *packet) { p.payload = []byte("abc") }),
		"TCP options": tcpWith(func(p *packet) {
			p.tcpOpts = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
		}),
		"one word of IP options":      tcpWith(func(p *packet) { p.options = ipOptions(1) }),
		"ten words of IP options":     tcpWith(func(p *packet) { p.options = ipOptions(10) }),
		"the TOS is copied":           tcpWith(func(p *packet) { p.tos = 0xb8 }),
		"don't fragment set":          tcpWith(func(p *packet) { p.fragment = layers.IPv4DontFragment }),
		"the smallest TTL that lives": tcpWith(func(p *packet) { p.ttl = 2 }),
		"padding behind the packet":   tcpWith(func(p *packet) { p.padding = make([]byte, 6) }),
		"a UDP datagram":              datagram(40002, "query"),
		"a UDP datagram unsummed": func() packet {
			p := datagram(40003, "query")
			p.unsummed = true
			return p
		}(),
		"an empty UDP datagram": datagram(40004, ""),
	}
	for name, p := range cases {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer(t)
			in := p.frame(t)
			out := b.forward(p)
			m := backendMAC(3)
			equalFrames(t, out, encapsulated(t, in, lbMAC, m[:], lbAddress, backendAddress(3)))
			id := uint32(3)
			if p.proto == udp {
				id = udpBackend(3)
			}
			e := b.entry(p)
			if e.Mode != LBLbModeLB_MODE_DSR || e.BackendId != id ||
				e.NatPort != 0 || e.RxPackets != 1 || e.RxBytes != uint64(in[16])<<8+uint64(in[17]) {
				t.Errorf("conntrack entry %+v", e)
			}
			b.wantFlows(1, 0)
		})
	}
}

// oracleSlot is the slot of a flow in a table of a size.
func oracleSlot(from, to netip.AddrPort, proto uint8, size uint32) uint32 {
	return oracleHash(from, to, proto) % size
}

// oracleHash is the tests' own jhash_3words with Cilium's seed: the final steps of
// lookup3 written as a table.
func oracleHash(from, to netip.AddrPort, proto uint8) uint32 {
	word := [3]uint32{wire(from.Addr()).Word[0], uint32(port(to.Port()))<<16 | uint32(port(from.Port())), uint32(proto)}
	const initial = (0xdeadbeef + 3<<2 + 1910299206) % (1 << 32)
	for i := range word {
		word[i] += initial
	}
	steps := []struct{ target, source, rotate int }{
		{2, 1, 14}, {0, 2, 11}, {1, 0, 25}, {2, 1, 16}, {0, 2, 4}, {1, 0, 14}, {2, 1, 24},
	}
	for _, s := range steps {
		v := word[s.source]
		word[s.target] = (word[s.target] ^ v) - (v<<s.rotate | v>>(32-s.rotate))
	}
	return word[2]
}

func TestANewFlowTakesTheMaglevSlotOfItsHash(t *testing.T) {
	const size = 251
	var ids []uint32
	for id := range uint32(size) {
		ids = append(ids, id+1)
	}
	b := newBalancer(t)
	b.serve(1, netip.AddrPortFrom(vip, 80), uint8(tcp), LBLbModeLB_MODE_DSR, size, ids...)
	b.serve(2, netip.AddrPortFrom(vip, 53), uint8(udp), LBLbModeLB_MODE_DSR, size, ids...)
	reached := map[uint32]bool{}
	for i := range 64 {
		for _, p := range []packet{request(uint16(1024+i*997), "S"), datagram(uint16(30000+i), "x")} {
			p.from = netip.AddrPortFrom(netip.AddrFrom4([4]byte{20, 1, byte(i), 100}), p.from.Port())
			out := b.forward(p)
			slot := oracleSlot(p.from, p.to, uint8(p.proto), size)
			if got, _ := netip.AddrFromSlice(out[30:34]); got != backendAddress(slot+1) {
				t.Errorf("%v -> %v went to %v, want slot %d: %v", p.from, p.to, got, slot, backendAddress(slot+1))
			}
			reached[slot] = true
		}
	}
	if len(reached) < 64 {
		t.Errorf("128 flows reached only %d slots", len(reached))
	}
}

func TestTablesOfEverySizeAreIndexedByTheirOwnSize(t *testing.T) {
	for _, size := range []uint32{1, 251, 16381, 65521} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			b := newBalancer(t)
			b.serve(1, netip.AddrPortFrom(vip, 80), uint8(tcp), LBLbModeLB_MODE_DSR, size, 1, 2, 5)
			for i := range uint16(8) {
				p := request(50000+i, "S")
				out := b.forward(p)
				want := backendAddress([]uint32{1, 2, 5}[oracleSlot(p.from, p.to, 6, size)%3])
				if got, _ := netip.AddrFromSlice(out[30:34]); got != want {
					t.Errorf("port %d went to %v, want %v", p.from.Port(), got, want)
				}
			}
		})
	}
}

func TestANewFlowWithoutABackendIsDropped(t *testing.T) {
	front := netip.AddrPortFrom(vip, 80)
	cases := map[string]struct {
		reason string
		breaks func(*balancer) error
	}{
		"the service has no table size": {"no_backend", func(b *balancer) error {
			return b.objects.Services.Put(serviceKey(front, 6), LBService{Id: 1, Slot: 1, Mode: LBLbModeLB_MODE_DSR})
		}},
		"the service has no table": {"no_backend", func(b *balancer) error { return b.objects.Maglev.Delete(uint32(1)) }},
		"the table is shorter than the service says": {"no_backend", func(b *balancer) error {
			b.serve(1, front, uint8(tcp), LBLbModeLB_MODE_DSR, 1, 3)
			return b.objects.Services.Put(serviceKey(front, 6), LBService{Id: 1, Slot: 1, TableSize: 1 << 30, Mode: LBLbModeLB_MODE_DSR})
		}},
		"the slot is empty": {"no_backend", func(b *balancer) error {
			b.serve(1, front, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 0)
			return nil
		}},
		"the slot names no backend that can be": {"no_backend", func(b *balancer) error {
			b.serve(1, front, uint8(tcp), LBLbModeLB_MODE_DSR, 1, 3)
			inner, err := b.innerTable(1)
			if err != nil {
				return err
			}
			defer inner.Close()
			return inner.Put(uint32(0), uint64(3)<<32|1<<20)
		}},
		"the backend was deleted": {"no_backend", func(b *balancer) error { return b.objects.Backends.Put(uint32(3), LBBackend{}) }},
		"the backend's MAC is not known": {"no_neighbour", func(b *balancer) error {
			b.changeBackend(3, func(e *LBBackend) { e.MacSlot = 2 })
			return nil
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer(t)
			must(t, c.breaks(b))
			b.drop(request(40000, "S").frame(t), c.reason)
			b.wantFlows(0, 0)
		})
	}
}

func TestEveryDropReasonHasAName(t *testing.T) {
	names, err := DropReasons()
	must(t, err)
	want := "none malformed_ip malformed_l4 fragment ttl_expired no_backend no_neighbour nat_exhausted mtu_exceeded adjust_head conntrack_failed no_flow source_denied extension_header no_stage vlan"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("reasons are\n%s\nwant\n%s", got, want)
	}
}
