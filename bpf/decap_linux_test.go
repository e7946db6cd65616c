package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// decapsulator is one of the two programs with maps of its own.
type decapsulator struct {
	t       testing.TB
	program *ebpf.Program
	config  *ebpf.Map
	stats   *ebpf.Map
	// passes and drops are the verdicts that its hook has for that.
	passes, drops uint32
	windows       *windowsDecap
}

// Verdicts of a classifier: TC_ACT_UNSPEC and TC_ACT_SHOT.
const (
	tcUnspec = ^uint32(0)
	tcShot   = 2
)

var decapsulators = map[string]func(testing.TB) *decapsulator{
	"XDP": func(t testing.TB) *decapsulator {
		var o DecapXDPObjects
		must(t, LoadDecapXDPObjects(&o, nil))
		t.Cleanup(func() { _ = o.Close() })
		return &decapsulator{t, o.DecapXdp, o.DecapConfig, o.DecapStats, xdpPass, xdpDrop, newWindowsDecap(t)}
	},
	"TC": func(t testing.TB) *decapsulator {
		var o DecapTCObjects
		must(t, LoadDecapTCObjects(&o, nil))
		t.Cleanup(func() { _ = o.Close() })
		return &decapsulator{t, o.DecapTc, o.DecapConfig, o.DecapStats, tcUnspec, tcShot, nil}
	},
}

func (d *decapsulator) traffic() DecapTCDecapTraffic {
	d.t.Helper()
	var perCPU []DecapTCDecapTraffic
	must(d.t, d.stats.Lookup(uint32(0), &perCPU))
	var sum DecapTCDecapTraffic
	for _, c := range perCPU {
		sum.DecapsulatedPackets += c.DecapsulatedPackets
		sum.DecapsulatedBytes += c.DecapsulatedBytes
		sum.PassedPackets += c.PassedPackets
		sum.MalformedPackets += c.MalformedPackets
	}
	return sum
}

// run checks verdict, frame and counters of one frame.
func (d *decapsulator) run(frame []byte, verdict uint32, want []byte, counted DecapTCDecapTraffic) {
	d.t.Helper()
	before := d.traffic()
	got, out := d.test(frame)
	if got != verdict {
		d.t.Fatalf("verdict %d, want %d", int32(got), int32(verdict))
	}
	if want != nil {
		equalFrames(d.t, out, want)
	}
	after := d.traffic()
	after.DecapsulatedPackets -= before.DecapsulatedPackets
	after.DecapsulatedBytes -= before.DecapsulatedBytes
	after.PassedPackets -= before.PassedPackets
	after.MalformedPackets -= before.MalformedPackets
	if after != counted {
		d.t.Fatalf("counted %+v, want %+v", after, counted)
	}
}

var backendNode = netip.MustParseAddr("20.1.1.30")

// tunnelled is a frame as the balancer sends it to the backend under test; the
// changes are made to its outer header before it is summed.
func tunnelled(t testing.TB, inner []byte, change func(*layers.IPv4)) []byte {
	t.Helper()
	outer := &layers.IPv4{
		Version: 4, IHL: 5, Flags: layers.IPv4DontFragment, TTL: 64, Protocol: layers.IPProtocolIPv4,
		SrcIP: lbAddress.AsSlice(), DstIP: backendNode.AsSlice(),
	}
	if change != nil {
		change(outer)
	}
	return serialize(t, &layers.Ethernet{SrcMAC: lbMAC, DstMAC: otherMAC, EthernetType: layers.EthernetTypeIPv4},
		outer, gopacket.Payload(inner))
}

// inner is a client's packet from its IP header on.
func inner(t testing.TB, payload string) []byte {
	t.Helper()
	p := request(40000, "A")
	p.payload = []byte(payload)
	frame := p.frame(t)
	return frame[14 : 14+binary.BigEndian.Uint16(frame[16:])]
}

// decapFrom strips what one address sends to another.
func decapFrom(backend, balancer netip.Addr) DecapTCDecapConfig {
	return DecapTCDecapConfig{Address4: wire(backend).Word[0], Source4: wire(balancer).Word[0], Mask4: 0xffffffff}
}

func each(t *testing.T, test func(t *testing.T, d *decapsulator)) {
	requireRoot(t)
	for name, load := range decapsulators {
		t.Run(name, func(t *testing.T) {
			d := load(t)
			must(t, d.config.Put(uint32(0), decapFrom(backendNode, lbAddress)))
			test(t, d)
		})
	}
}

func sub(t *testing.T, d *decapsulator, name string, test func(d *decapsulator)) {
	t.Run(name, func(t *testing.T) {
		here := *d
		here.t = t
		test(&here)
	})
}

func TestTheOuterHeaderOfTheBalancersPacketsIsStripped(t *testing.T) {
	each(t, func(t *testing.T, d *decapsulator) {
		options := request(40000, "A")
		options.options, options.payload = ipOptions(10), []byte("data")
		withOptions := options.frame(t)
		odd := datagram(40000, "abc").frame(t)[14 : 14+31]
		for name, packet := range map[string][]byte{
			"a segment":                inner(t, "GET / HTTP/1.1\r\n\r\n"),
			"an empty segment":         inner(t, ""),
			"a full-size segment":      inner(t, string(make([]byte, 1440))),
			"inner IP options":         withOptions[14:],
			"a datagram of odd length": odd,
		} {
			sub(t, d, name, func(d *decapsulator) {
				in := tunnelled(d.t, packet, nil)
				want := append(append([]byte(nil), in[:14]...), packet...)
				d.run(in, d.passes, want, DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: uint64(len(packet))})
			})
		}
		sub(t, d, "padding stays behind the packet", func(d *decapsulator) {
			packet := inner(d.t, "")
			in := append(tunnelled(d.t, packet, nil), 0, 0, 0, 0)
			want := append(append(append([]byte(nil), in[:14]...), packet...), 0, 0, 0, 0)
			d.run(in, d.passes, want, DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: 40})
		})
		sub(t, d, "from any source under the mask", func(d *decapsulator) {
			config := decapFrom(backendNode, lbAddress)
			config.Mask4 = wire(netip.MustParseAddr("255.255.255.0")).Word[0]
			must(d.t, d.config.Put(uint32(0), config))
			packet := inner(d.t, "data")
			for _, last := range []byte{0, 1, 255} {
				in := tunnelled(d.t, packet, func(ip *layers.IPv4) { ip.SrcIP = []byte{20, 1, 1, last} })
				d.run(in, d.passes, append(append([]byte(nil), in[:14]...), packet...),
					DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: uint64(len(packet))})
			}
			other := tunnelled(d.t, packet, func(ip *layers.IPv4) { ip.SrcIP = []byte{20, 1, 2, 1} })
			d.run(other, d.passes, other, DecapTCDecapTraffic{PassedPackets: 1})
		})
		sub(t, d, "from any balancer when none is named", func(d *decapsulator) {
			must(d.t, d.config.Put(uint32(0), DecapTCDecapConfig{Address4: wire(backendNode).Word[0]}))
			packet := inner(d.t, "data")
			in := tunnelled(d.t, packet, func(ip *layers.IPv4) { ip.SrcIP = client.AsSlice() })
			d.run(in, d.passes, append(append([]byte(nil), in[:14]...), packet...),
				DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: uint64(len(packet))})
		})
	})
}

func TestWhatABackendIsNotToDecapsulatePassesUntouched(t *testing.T) {
	each(t, func(t *testing.T, d *decapsulator) {
		packet := inner(t, "0123456789012345")
		with := func(change func(*layers.IPv4)) []byte { return tunnelled(t, packet, change) }
		six := with(nil)
		binary.BigEndian.PutUint16(six[12:], 0x86dd)
		vlan := with(nil)
		binary.BigEndian.PutUint16(vlan[12:], 0x8100)
		plain := request(40000, "A")
		plain.payload = make([]byte, 40)
		for name, frame := range map[string][]byte{
			"another outer destination": with(func(ip *layers.IPv4) { ip.DstIP = []byte{20, 1, 1, 40} }),
			"the VIP as destination":    with(func(ip *layers.IPv4) { ip.DstIP = vip.AsSlice() }),
			"another outer source":      with(func(ip *layers.IPv4) { ip.SrcIP = client.AsSlice() }),
			"another protocol":          with(func(ip *layers.IPv4) { ip.Protocol = layers.IPProtocolGRE }),
			"an outer first fragment":   with(func(ip *layers.IPv4) { ip.Flags = layers.IPv4MoreFragments }),
			"an outer later fragment":   with(func(ip *layers.IPv4) { ip.Flags, ip.FragOffset = 0, 10 }),
			"outer IP options":          with(func(ip *layers.IPv4) { ip.Options = ipOptions(1) }),
			"another EtherType":         six,
			"a VLAN tag":                vlan,
			"a plain TCP segment":       plain.frame(t),
		} {
			sub(t, d, name, func(d *decapsulator) {
				d.run(frame, d.passes, frame, DecapTCDecapTraffic{PassedPackets: 1})
			})
		}
		for name, config := range map[string]DecapTCDecapConfig{
			"no configuration":              {},
			"a configuration of no address": decapFrom(netip.IPv4Unspecified(), lbAddress),
		} {
			sub(t, d, name, func(d *decapsulator) {
				must(d.t, d.config.Put(uint32(0), config))
				d.run(with(nil), d.passes, with(nil), DecapTCDecapTraffic{PassedPackets: 1})
			})
		}
	})
}

func TestWhatHoldsNoWholeIPv4PacketIsDropped(t *testing.T) {
	each(t, func(t *testing.T, d *decapsulator) {
		edit := func(at int, value byte) []byte {
			packet := inner(t, "0123456789012345")
			packet[at] = value
			return tunnelled(t, packet, nil)
		}
		outerLength := func(n uint16) []byte {
			frame := tunnelled(t, inner(t, "0123456789012345"), nil)
			binary.BigEndian.PutUint16(frame[16:], n)
			return frame
		}
		for name, frame := range map[string][]byte{
			"an inner version 6":                               edit(0, 0x65),
			"an inner IHL of 4":                                edit(0, 0x44),
			"an inner IHL beyond the inner packet":             func() []byte { f := edit(0, 0x4f); f[14+20+3] = 59; return f }(),
			"an inner length beyond the outer":                 edit(3, 57),
			"an inner length below its header":                 edit(3, 19),
			"an inner length of 0":                             edit(3, 0),
			"an outer length beyond the frame":                 outerLength(77),
			"an outer length without room for an inner header": outerLength(39),
			"an outer length below its own header":             outerLength(19),
			"a few bytes":                                      tunnelled(t, []byte("0123456789"), nil),
		} {
			sub(t, d, name, func(d *decapsulator) {
				d.run(frame, d.drops, nil, DecapTCDecapTraffic{MalformedPackets: 1})
			})
		}
	})
}

func TestXDPDecapsulationReadsShortFramesSafely(t *testing.T) {
	requireRoot(t)
	d := decapsulators["XDP"](t)
	must(t, d.config.Put(uint32(0), DecapXDPDecapConfig{Address4: wire(backendNode).Word[0]}))
	whole := tunnelled(t, inner(t, ""), nil)
	for n := 14; n < 34; n++ {
		d.run(whole[:n], xdpPass, whole[:n], DecapTCDecapTraffic{PassedPackets: 1})
	}
	for n := 34; n < len(whole); n++ {
		d.run(whole[:n], xdpDrop, nil, DecapTCDecapTraffic{MalformedPackets: 1})
	}
}

func TestWhatTheBalancerEncapsulatesTheBackendUnpacks(t *testing.T) {
	b := dsrBalancer(t)
	for name, load := range decapsulators {
		t.Run(name, func(t *testing.T) {
			d := load(t)
			must(t, d.config.Put(uint32(0), decapFrom(backendAddress(3), lbAddress)))
			p := request(40000, "PA")
			p.payload = []byte("GET / HTTP/1.1\r\n\r\n")
			out := b.forward(p)
			want := append(append([]byte(nil), out[:14]...), p.frame(t)[14:]...)
			d.run(out, d.passes, want, DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: 58})
		})
	}
}
