package bpf

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// Types of ICMP and of ICMPv6.
const (
	echoReply, echoRequest   = 0, 8
	echoReply6, echoRequest6 = 129, 128
)

// message is an ICMP message to the balancer from beyond the router, of the
// family of its receiver.
func message(from, to netip.Addr, header icmpHeader, payload []byte) packet {
	p := packet{
		sourceMAC: routerMAC, destMAC: lbMAC, proto: icmp4, ttl: 57, id: 0x4321,
		from: netip.AddrPortFrom(from, 0), to: netip.AddrPortFrom(to, 0), icmp: header, payload: payload,
	}
	if to.Is6() {
		p.proto, p.id = icmp6, 0
	}
	return p
}

func ping(payload string) packet {
	return message(client, vip, icmpHeader{kind: echoRequest, rest: 0xbeef0007}, []byte(payload))
}

func ping6(payload string) packet {
	return message(client6, vip6, icmpHeader{kind: echoRequest6, rest: 0xbeef0007}, []byte(payload))
}

// bothFamilies serves TCP 80 of both VIPs in a mode with backend 3 of IPv4 and 4 of IPv6, UDP 53 likewise.
func bothFamilies(t testing.TB, mode LBLbMode) *balancer {
	t.Helper()
	b := newBalancer(t)
	b.serve(0, netip.AddrPortFrom(vip, 80), uint8(tcp), mode, 3, 3)
	b.serve(1, netip.AddrPortFrom(vip, 53), uint8(udp), mode, 3, 3)
	b.serve(2, netip.AddrPortFrom(vip6, 80), uint8(tcp), mode, 3, 4)
	b.serve(3, netip.AddrPortFrom(vip6, 53), uint8(udp), mode, 3, 4)
	return b
}

func TestAnEchoRequestToTheVIPIsAnswered(t *testing.T) {
	for name, p := range map[string]packet{
		"of IPv4":                    ping("abcdefgh"),
		"of IPv4, empty":             ping(""),
		"of IPv4, odd payload":       ping("abc"),
		"of IPv4, large":             ping(strings.Repeat("x", 1472)),
		"of IPv4, with options":      changed(ping("abcdefgh"), func(p *packet) { p.options = timestampOption(3) }),
		"of IPv4, all the options":   changed(ping("abc"), func(p *packet) { p.options = timestampOption(10) }),
		"of IPv4, with a TOS":        changed(ping("abcdefgh"), func(p *packet) { p.tos = 0xb9 }),
		"of IPv4, TTL 1":             changed(ping("abcdefgh"), func(p *packet) { p.ttl = 1 }),
		"of IPv4, TTL 64":            changed(ping("abcdefgh"), func(p *packet) { p.ttl = 64 }),
		"of IPv4, don't fragment":    changed(ping("abcdefgh"), func(p *packet) { p.fragment = layers.IPv4DontFragment }),
		"of IPv4, padding":           changed(ping(""), func(p *packet) { p.padding = make([]byte, 18) }),
		"of IPv6":                    ping6("abcdefgh"),
		"of IPv6, empty":             ping6(""),
		"of IPv6, odd payload":       ping6("abc"),
		"of IPv6, large":             ping6(strings.Repeat("x", 1452)),
		"of IPv6, class and label":   changed(ping6("abcdefgh"), func(p *packet) { p.tos, p.label = 0xb9, 0xabcde }),
		"of IPv6, hop limit 1":       changed(ping6("abcdefgh"), func(p *packet) { p.ttl = 1 }),
		"of IPv6, extension headers": withExtensions(ping6("abc"), padded(hopByHopHeader, 8), padded(destinationHeader, 16)),
		"of IPv6, atomic fragment":   withExtensions(ping6("abc"), fragment6(0, false, 9)),
	} {
		t.Run(name, func(t *testing.T) {
			b := bothFamilies(t, LBLbModeLB_MODE_DSR)
			want := p
			want.sourceMAC, want.destMAC, want.from, want.to, want.ttl = lbMAC, routerMAC, p.to, p.from, 64
			want.icmp.kind = echoReply
			if p.proto == icmp6 {
				want.icmp.kind = echoReply6
			}
			out := b.forward(p)
			equalFrames(t, out, want.frame(t))
			must(t, checksumFaults(out))
			if n := b.counters().icmp[LBIcmpDeedICMP_ECHO_ANSWERED]; n != 1 {
				t.Fatalf("counted as answered %d times", n)
			}
			b.wantFlows(0, 0)
		})
	}
}

// timestampOption is an IPv4 option of that many words.
func timestampOption(words int) []layers.IPv4Option {
	return []layers.IPv4Option{{OptionType: 68, OptionLength: uint8(words * 4), OptionData: make([]byte, words*4-2)}}
}

func TestAWrongEchoChecksumIsNotRepaired(t *testing.T) {
	b := bothFamilies(t, LBLbModeLB_MODE_DSR)
	for _, p := range []packet{ping("abcdefgh"), ping6("abcdefgh")} {
		frame := p.frame(t)
		frame[l4Offset(frame)+2] ^= 0x40
		verdict, out := b.send(frame)
		if verdict != xdpTX || checksumFaults(out) == nil {
			t.Fatalf("verdict %d, checksum faults: %v", verdict, checksumFaults(out))
		}
	}
}

func TestICMPThatIsNotTheVIPsReachesTheStackUntouched(t *testing.T) {
	discovery := func(kind uint8, to netip.Addr) packet {
		p := message(client6, to, icmpHeader{kind: kind}, append(vip6.AsSlice(), 1, 1, 2, 0, 0, 0, 0, 0x64))
		p.ttl = 255
		return p
	}
	solicited := netip.MustParseAddr("ff02::1:ff00:1")
	for name, p := range map[string]packet{
		"an echo to the balancer":              message(client, lbAddress, icmpHeader{kind: echoRequest}, []byte("x")),
		"an echo to the balancer over IPv6":    message(client6, lbAddress6, icmpHeader{kind: echoRequest6}, []byte("x")),
		"an echo to another address":           message(client, otherAddress, icmpHeader{kind: echoRequest}, []byte("x")),
		"an echo to another address of IPv6":   message(client6, otherAddress6, icmpHeader{kind: echoRequest6}, []byte("x")),
		"an echo reply to the VIP":             message(client, vip, icmpHeader{kind: echoReply}, []byte("x")),
		"an echo reply to the VIP over IPv6":   message(client6, vip6, icmpHeader{kind: echoReply6}, []byte("x")),
		"an echo reply to the balancer":        message(client, lbAddress, icmpHeader{kind: echoReply}, []byte("x")),
		"an echo of ICMPv6's number over IPv4": message(client, vip, icmpHeader{kind: echoRequest6}, []byte("x")),
		"an echo of ICMP's number over IPv6":   message(client6, vip6, icmpHeader{kind: echoRequest}, []byte("x")),
		"ICMP over IPv6":                       changed(ping6("x"), func(p *packet) { p.proto, p.icmp.kind = icmp4, echoRequest }),
		"ICMPv6 over IPv4":                     changed(ping("x"), func(p *packet) { p.proto, p.icmp.kind = icmp6, echoRequest6 }),
		"a timestamp request":                  message(client, vip, icmpHeader{kind: 13}, make([]byte, 12)),
		"a redirect":                           message(client, vip, icmpHeader{kind: 5}, make([]byte, 28)),
		"a router solicitation":                discovery(133, netip.MustParseAddr("ff02::2")),
		"a router advertisement":               discovery(134, netip.MustParseAddr("ff02::1")),
		"a neighbour solicitation":             discovery(135, solicited),
		"a neighbour solicitation to us":       discovery(135, lbAddress6),
		"a neighbour solicitation to the VIP":  discovery(135, vip6),
		"a neighbour advertisement to us":      discovery(136, lbAddress6),
		"a neighbour advertisement to the VIP": discovery(136, vip6),
		"a listener query with an option":      withExtensions(discovery(130, netip.MustParseAddr("ff02::1")), padded(hopByHopHeader, 8)),
	} {
		t.Run(name, func(t *testing.T) {
			b := bothFamilies(t, LBLbModeLB_MODE_SNAT)
			b.pass(p.frame(t))
		})
	}
}

var (
	otherAddress  = netip.MustParseAddr("40.1.1.2")
	otherAddress6 = netip.MustParseAddr("fd40::2")
)

func TestMalformedAndFragmentedICMPToTheVIPIsACountedDrop(t *testing.T) {
	cut4 := changed(ping(""), func(p *packet) { p.raw, p.payload = true, []byte{8, 0, 0xf7, 0xff, 0, 0, 0} })
	cut6 := changed(ping6(""), func(p *packet) { p.raw, p.payload = true, []byte{128, 0, 0x12, 0x34, 0, 0, 0} })
	for name, c := range map[string]struct {
		p      packet
		reason string
	}{
		"seven bytes":                       {cut4, "malformed_l4"},
		"seven bytes and padding":           {changed(cut4, func(p *packet) { p.padding = make([]byte, 18) }), "malformed_l4"},
		"seven bytes over IPv6":             {cut6, "malformed_l4"},
		"seven bytes over IPv6 and padding": {changed(cut6, func(p *packet) { p.padding = make([]byte, 18) }), "malformed_l4"},
		"nothing":                           {changed(cut4, func(p *packet) { p.payload = nil }), "malformed_l4"},
		"a first fragment":                  {changed(ping("abcdefgh"), func(p *packet) { p.fragment = layers.IPv4MoreFragments }), "fragment"},
		"a later fragment":                  {changed(ping("abcdefgh"), func(p *packet) { p.offset = 10 }), "fragment"},
		"a first fragment over IPv6":        {withExtensions(ping6("abcdefgh"), fragment6(0, true, 1)), "fragment"},
		"a later fragment over IPv6":        {withExtensions(ping6("abcdefgh"), fragment6(10, false, 1)), "fragment"},
	} {
		t.Run(name, func(t *testing.T) {
			b := bothFamilies(t, LBLbModeLB_MODE_DSR)
			b.drop(c.p.frame(t), c.reason)
		})
	}
}
