package bpf

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var backendNode6 = netip.MustParseAddr("fd20::30")

var allBits = LBAddress{Word: [4]uint32{^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)}}

func decapFrom6(backend, balancer netip.Addr) DecapTCDecapConfig {
	return DecapTCDecapConfig{
		Address6: wire(backend), Source6: wire(balancer), Mask6: allBits,
	}
}

// tunnelled6 is tunnelled in an outer IPv6 header.
func tunnelled6(t testing.TB, inner []byte, change func(*layers.IPv6)) []byte {
	t.Helper()
	outer := &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolIPv6,
		SrcIP: lbAddress6.AsSlice(), DstIP: backendNode6.AsSlice(),
	}
	if change != nil {
		change(outer)
	}
	return serialize(t, &layers.Ethernet{SrcMAC: lbMAC, DstMAC: otherMAC, EthernetType: layers.EthernetTypeIPv6},
		outer, gopacket.Payload(inner))
}

// inner6 is a client's IPv6 packet from its IP header on.
func inner6(t testing.TB, payload string) []byte {
	t.Helper()
	return changed(overIPv6(request(40000, "A")), func(p *packet) { p.payload = []byte(payload) }).frame(t)[14:]
}

// stripped is a frame without its outer header of that many bytes.
func stripped(frame []byte, header int) []byte {
	return slices.Concat(frame[:14], frame[14+header:])
}

func each6(t *testing.T, test func(t *testing.T, d *decapsulator)) {
	each(t, func(t *testing.T, d *decapsulator) {
		must(t, d.config.Put(uint32(0), decapFrom6(backendNode6, lbAddress6)))
		test(t, d)
	})
}

func TestTheOuterIPv6HeaderOfTheBalancersPacketsIsStripped(t *testing.T) {
	each6(t, func(t *testing.T, d *decapsulator) {
		for name, packet := range map[string][]byte{
			"a segment":                inner6(t, "GET / HTTP/1.1\r\n\r\n"),
			"an empty segment":         inner6(t, ""),
			"a full-size segment":      inner6(t, string(make([]byte, 1400))),
			"a datagram of odd length": overIPv6(datagram(40000, "abc")).frame(t)[14:],
			"inner extension headers":  withExtensions(overIPv6(request(40000, "A")), padded(hopByHopHeader, 16)).frame(t)[14:],
			"an inner fragment":        fragmentsOf(t, overIPv6(datagram(40000, "0123456789abcdef")), 1, 8)[1].frame(t)[14:],
			"an inner class and label": changed(overIPv6(request(40000, "A")), func(p *packet) { p.tos, p.label = 0xb9, 0xabcde }).frame(t)[14:],
			"an ICMPv6 error":          message(client6, vip6, icmpHeader{kind: 2, rest: 1400}, inner6(t, "")).frame(t)[14:],
		} {
			sub(t, d, name, func(d *decapsulator) {
				in := tunnelled6(d.t, packet, nil)
				d.run(in, d.passes, stripped(in, 40), DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: uint64(len(packet))})
			})
		}
		for name, change := range map[string]func(*layers.IPv6){
			"an outer class and label": func(ip *layers.IPv6) { ip.TrafficClass, ip.FlowLabel = 0xb9, 0xabcde },
			"an outer hop limit of 1":  func(ip *layers.IPv6) { ip.HopLimit = 1 },
		} {
			sub(t, d, name, func(d *decapsulator) {
				in := tunnelled6(d.t, inner6(d.t, "data"), change)
				d.run(in, d.passes, stripped(in, 40), DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: 64})
			})
		}
		sub(t, d, "padding stays behind the packet", func(d *decapsulator) {
			in := append(tunnelled6(d.t, inner6(d.t, ""), nil), 1, 2, 3, 4)
			d.run(in, d.passes, stripped(in, 40), DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: 60})
		})
	})
}

func TestWhatABackendIsNotToDecapsulateOfIPv6PassesUntouched(t *testing.T) {
	each6(t, func(t *testing.T, d *decapsulator) {
		packet := inner6(t, "0123456789012345")
		with := func(change func(*layers.IPv6)) []byte { return tunnelled6(t, packet, change) }
		vlan, four := with(nil), with(nil)
		binary.BigEndian.PutUint16(vlan[12:], 0x8100)
		binary.BigEndian.PutUint16(four[12:], 0x0800)
		near := backendNode6.As16()
		near[0] ^= 1
		for name, frame := range map[string][]byte{
			"another outer destination":                    with(func(ip *layers.IPv6) { ip.DstIP = client6.AsSlice() }),
			"a destination that differs in its first byte": with(func(ip *layers.IPv6) { ip.DstIP = near[:] }),
			"the VIP as destination":                       with(func(ip *layers.IPv6) { ip.DstIP = vip6.AsSlice() }),
			"another outer source":                         with(func(ip *layers.IPv6) { ip.SrcIP = client6.AsSlice() }),
			"IPv4 inside":                                  with(func(ip *layers.IPv6) { ip.NextHeader = layers.IPProtocolIPv4 }),
			"another next header":                          with(func(ip *layers.IPv6) { ip.NextHeader = layers.IPProtocolGRE }),
			"an outer extension header":                    with(func(ip *layers.IPv6) { ip.NextHeader = hopByHopHeader }),
			"an outer fragment header":                     with(func(ip *layers.IPv6) { ip.NextHeader = fragmentHeader }),
			"an outer version 4":                           with(func(ip *layers.IPv6) { ip.Version = 4 }),
			"the EtherType of IPv4":                        four,
			"a VLAN tag":                                   vlan,
			"a plain TCP segment":                          append(bytes.Clone(with(nil)[:14]), inner6(t, "0123456789012345678901234567890123456789")...),
			"4in4 where only IPv6 is configured":           tunnelled(t, inner(t, "0123456789012345"), nil),
		} {
			sub(t, d, name, func(d *decapsulator) {
				d.run(frame, d.passes, frame, DecapTCDecapTraffic{PassedPackets: 1})
			})
		}
		for name, config := range map[string]DecapTCDecapConfig{
			"no configuration":                   {},
			"a configuration of no address":      {Source6: wire(lbAddress6), Mask6: allBits},
			"6in6 where only IPv4 is configured": decapFrom(backendNode, lbAddress),
		} {
			sub(t, d, name, func(d *decapsulator) {
				must(d.t, d.config.Put(uint32(0), config))
				d.run(with(nil), d.passes, with(nil), DecapTCDecapTraffic{PassedPackets: 1})
			})
		}
	})
}

func TestWhatHoldsNoWholeIPv6PacketIsDropped(t *testing.T) {
	each6(t, func(t *testing.T, d *decapsulator) {
		edit := func(at int, value byte) []byte {
			packet := inner6(t, "0123456789012345")
			packet[at] = value
			return tunnelled6(t, packet, nil)
		}
		outerLength := func(n uint16) []byte {
			frame := tunnelled6(t, inner6(t, "0123456789012345"), nil)
			binary.BigEndian.PutUint16(frame[18:], n)
			return frame
		}
		for name, frame := range map[string][]byte{
			"an inner version 4":                               edit(0, 0x45),
			"an inner length beyond the outer":                 edit(5, 37),
			"an inner length of 65535":                         func() []byte { f := edit(5, 0xff); f[14+40+4] = 0xff; return f }(),
			"an outer length beyond the frame":                 outerLength(77),
			"an outer length without room for an inner header": outerLength(39),
			"an outer length of 0":                             outerLength(0),
			"a few bytes":                                      tunnelled6(t, []byte("0123456789"), nil),
		} {
			sub(t, d, name, func(d *decapsulator) {
				d.run(frame, d.drops, nil, DecapTCDecapTraffic{MalformedPackets: 1})
			})
		}
	})
}

func TestXDPDecapsulationReadsShortIPv6FramesSafely(t *testing.T) {
	requireRoot(t)
	d := decapsulators["XDP"](t)
	must(t, d.config.Put(uint32(0), decapFrom6(backendNode6, lbAddress6)))
	whole := tunnelled6(t, inner6(t, ""), nil)
	for n := 14; n < 54; n++ {
		d.run(whole[:n], xdpPass, whole[:n], DecapTCDecapTraffic{PassedPackets: 1})
	}
	for n := 54; n < len(whole); n++ {
		d.run(whole[:n], xdpDrop, nil, DecapTCDecapTraffic{MalformedPackets: 1})
	}
}

// The mask says which bits of the outer source count: the agent spreads its
// packets over sources of a prefix.
func TestTheOuterSourceIsComparedUnderItsMask(t *testing.T) {
	mask4 := func(bits string) uint32 { return wire(netip.MustParseAddr(bits)).Word[0] }
	mask6 := func(bits string) LBAddress { return wire(netip.MustParseAddr(bits)) }
	both := decapFrom6(backendNode6, lbAddress6)
	both.Address4, both.Source4 = wire(backendNode).Word[0], wire(lbAddress).Word[0]
	for _, c := range []struct {
		name    string
		mask4   string
		mask6   string
		source4 string
		source6 string
		strips  bool
	}{
		{"all bits, the source itself", "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "20.1.1.1", "fd20::1", true},
		{"all bits, another last bit", "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "20.1.1.0", "fd20::", false},
		{"all bits, another first bit", "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "148.1.1.1", "7d20::1", false},
		{"a prefix, inside it", "255.255.0.0", "ffff:ffff:ffff:ffff::", "20.1.200.7", "fd20::abcd:1:2:3", true},
		{"a prefix, one bit outside it", "255.255.0.0", "ffff:ffff:ffff:ffff::", "20.0.1.1", "fd20:0:0:1::1", false},
		{"a mask in the middle, which agrees", "0.255.255.0", "0:0:ffff:ffff:ffff:ffff::", "99.1.1.99", "9999:9999::9999:9999", true},
		{"a mask in the middle, which does not", "0.255.255.0", "0:0:ffff:ffff:ffff:ffff::", "99.1.2.99", "9999:9999:0:0:1::", false},
		{"no bit, any source", "0.0.0.0", "::", "99.99.99.99", "9999::9999", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, d *decapsulator) {
				config := both
				config.Mask4, config.Mask6 = mask4(c.mask4), mask6(c.mask6)
				must(t, d.config.Put(uint32(0), config))
				frames := map[int][]byte{
					20: tunnelled(t, inner(t, "data"), func(ip *layers.IPv4) { ip.SrcIP = netip.MustParseAddr(c.source4).AsSlice() }),
					40: tunnelled6(t, inner6(t, "data"), func(ip *layers.IPv6) { ip.SrcIP = netip.MustParseAddr(c.source6).AsSlice() }),
				}
				for header, frame := range frames {
					if c.strips {
						d.run(frame, d.passes, stripped(frame, header), DecapTCDecapTraffic{
							DecapsulatedPackets: 1, DecapsulatedBytes: uint64(len(frame) - 14 - header),
						})
						continue
					}
					d.run(frame, d.passes, frame, DecapTCDecapTraffic{PassedPackets: 1})
				}
			})
		})
	}
}

func TestWhatTheBalancerEncapsulatesOfIPv6TheBackendUnpacks(t *testing.T) {
	b := dsrBalancer6(t)
	for name, load := range decapsulators {
		t.Run(name, func(t *testing.T) {
			d := load(t)
			must(t, d.config.Put(uint32(0), decapFrom6(backendAddress6(3), lbAddress6)))
			p := overIPv6(request(40000, "PA"))
			p.payload = []byte("GET / HTTP/1.1\r\n\r\n")
			out := b.forward(p)
			want := slices.Concat(out[:14], p.frame(t)[14:])
			d.run(out, d.passes, want, DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: 78})
		})
	}
}
