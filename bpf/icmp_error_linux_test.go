package bpf

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
)

// side is one family's part of a balancer of bothFamilies.
type side struct {
	name                        string
	client, vip, lb, far        netip.Addr
	backend                     uint32
	backendPort                 netip.AddrPort
	header                      int // bytes of its IP header
	unreachable, quench, tooBig icmpHeader
	over                        func(packet) packet
}

var sides = []side{
	{
		"IPv4", client, vip, lbAddress, netip.MustParseAddr("20.9.9.9"), 3, backendPort(3), 20,
		icmpHeader{kind: 3, code: 3}, icmpHeader{kind: 11}, icmpHeader{kind: 3, code: 4, rest: 1300},
		func(p packet) packet { return p },
	},
	{
		"IPv6", client6, vip6, lbAddress6, netip.MustParseAddr("fd99::9"), 4, backendPort6(4), 40,
		icmpHeader{kind: 1, code: 4}, icmpHeader{kind: 3}, icmpHeader{kind: 2, rest: 1300},
		overIPv6,
	},
}

func (s side) encapsulated(t testing.TB, frame []byte, backend uint32) []byte {
	m := backendMAC(backend)
	to := backendAddress(backend)
	if s.vip.Is6() {
		to = backendAddress6(backend)
	}
	return encapsulated(t, frame, lbMAC, m[:], s.lb, to)
}

// open is a client's first packet; its port is outside the SNAT pool, so SNAT
// replaces it.
func (s side) open(proto layers.IPProtocol) packet {
	p := s.over(request(1234, "S"))
	if proto == udp {
		p = s.over(datagram(1234, "query"))
	}
	return p
}

// quoted is the beginning of a packet as an error quotes it: the IP header and
// that many bytes behind it, some hops further on.
func quoted(t testing.TB, p packet, l4 int) []byte {
	t.Helper()
	p.ttl = 55
	frame := p.frame(t)
	at := l4Offset(frame)
	return frame[14:min(at+l4, len(frame))]
}

// whole stands for all of the packet that is quoted.
const whole = 1000

// backwards is a packet of the flow's other direction, seen at the same place.
func backwards(p packet) packet {
	p.from, p.to = p.to, p.from
	if p.proto == tcp {
		p.flags = "PA"
	}
	p.payload = []byte("HTTP/1.1 200 OK\r\n\r\n.")
	return p
}

// kinds are all errors of a family.
func (s side) kinds() (all []icmpHeader) {
	last := map[uint8]uint8{1: 7, 3: 1, 4: 3}
	if s.vip.Is4() {
		last = map[uint8]uint8{3: 15, 11: 1, 12: 2}
	}
	for kind, code := range last {
		for c := range code + 1 {
			all = append(all, icmpHeader{kind: kind, code: c})
		}
	}
	if s.vip.Is4() {
		all = append(all, icmpHeader{kind: 12, rest: 0x09000000})
	}
	return append(all, s.tooBig)
}

// snatFlow opens a flow through SNAT and returns the port that it got.
func snatFlow(t testing.TB, s side, proto layers.IPProtocol) (b *balancer, open packet, natPort uint16) {
	t.Helper()
	b = bothFamilies(t, LBLbModeLB_MODE_SNAT)
	open = s.open(proto)
	return b, open, sourcePort(b.forward(open))
}

// quoteCases are what of a packet an error may quote, as changes to that packet.
var quoteCases = map[string]struct {
	l4     int
	change func(*packet)
}{
	"eight bytes":                     {8, func(*packet) {}},
	"up to the TCP checksum":          {18, func(*packet) {}},
	"a TCP header":                    {20, func(*packet) {}},
	"an odd number of bytes":          {23, func(*packet) {}},
	"all of it":                       {whole, func(*packet) {}},
	"all of it, options in it":        {whole, func(p *packet) { p.tcpOpts = []layers.TCPOption{{OptionType: 1}, {OptionType: 1}} }},
	"a class and a label":             {whole, func(p *packet) { p.tos, p.label = 0xb9, 0x54321 }},
	"eight bytes behind IPv4 options": {8, func(p *packet) { p.options = timestampOption(2) }},
	"all of it, all IPv4 options":     {whole, func(p *packet) { p.options = timestampOption(10) }},
	"a first fragment of IPv4":        {whole, func(p *packet) { p.fragment = layers.IPv4MoreFragments }},
	"a datagram without a checksum":   {whole, func(p *packet) { p.unsummed = p.proto == udp }},
}

func TestAnErrorAboutASNATFlowReachesItsBackendTranslated(t *testing.T) {
	for _, s := range sides {
		for _, proto := range []layers.IPProtocol{tcp, udp} {
			for name, c := range quoteCases {
				t.Run(fmt.Sprintf("%s, %s, %s", s.name, proto, name), func(t *testing.T) {
					b, open, natPort := snatFlow(t, s, proto)
					// What the backend sent, and what the client got of it.
					sent := s.over(answer(s.backend, natPort, uint8(proto), ""))
					sent.from, sent.to = s.backendPort, netip.AddrPortFrom(s.lb, natPort)
					sent.flags, sent.payload = "PA", []byte("HTTP/1.1 200 OK\r\n\r\n.")
					c.change(&sent)
					got := sent
					got.from, got.to = open.to, open.from
					b.errorBecomes(
						message(s.far, s.vip, s.unreachable, quoted(t, got, c.l4)),
						message(s.lb, s.backendPort.Addr(), s.unreachable, quoted(t, sent, c.l4)),
						backendMAC(s.backend), LBIcmpDeedICMP_ERROR_TO_BACKEND)
				})
			}
		}
	}
}

func TestAnErrorAboutASNATFlowReachesItsClientTranslated(t *testing.T) {
	for _, s := range sides {
		for _, proto := range []layers.IPProtocol{tcp, udp} {
			for name, c := range quoteCases {
				t.Run(fmt.Sprintf("%s, %s, %s", s.name, proto, name), func(t *testing.T) {
					b, open, natPort := snatFlow(t, s, proto)
					sent := open
					sent.flags, sent.payload = "PA", []byte("GET / HTTP/1.1\r\n\r\n")
					c.change(&sent)
					got := sent
					got.from, got.to = netip.AddrPortFrom(s.lb, natPort), s.backendPort
					b.errorBecomes(
						message(s.far, s.lb, s.unreachable, quoted(t, got, c.l4)),
						message(s.vip, s.client, s.unreachable, quoted(t, sent, c.l4)),
						[6]uint8(routerMAC), LBIcmpDeedICMP_ERROR_TO_CLIENT)
				})
			}
		}
	}
}

// errorBecomes sends an error and checks what leaves, with its TTL counted down, and
// that no flow noticed.
func (b *balancer) errorBecomes(in, want packet, nextHop [6]uint8, deed LBIcmpDeed) {
	b.t.Helper()
	want.sourceMAC, want.destMAC, want.ttl = lbMAC, nextHop[:], in.ttl-1
	want.options, want.extensions, want.tos, want.label, want.padding = in.options, in.extensions, in.tos, in.label, in.padding
	want.id, want.fragment = in.id, in.fragment
	before := b.flows()
	was := b.counters().icmp[deed]
	out := b.forward(in)
	equalFrames(b.t, out, want.frame(b.t))
	must(b.t, checksumFaults(out))
	if n := b.counters().icmp[deed] - was; n != 1 {
		b.t.Fatalf("counted %d times", n)
	}
	if after := b.flows(); !maps.Equal(after, before) {
		b.t.Fatalf("flows before %v, after %v", before, after)
	}
}

// flows are all entries of conntrack.
func (b *balancer) flows() map[any]LBCtEntry {
	b.t.Helper()
	all := map[any]LBCtEntry{}
	for _, m := range []*ebpf.Map{b.objects.Flows4, b.objects.NewFlows4} {
		collect[LBFlow4](b.t, m, all)
	}
	for _, m := range []*ebpf.Map{b.objects.Flows6, b.objects.NewFlows6} {
		collect[LBFlow](b.t, m, all)
	}
	return all
}

func collect[K any](t testing.TB, m *ebpf.Map, into map[any]LBCtEntry) {
	t.Helper()
	var key K
	var value LBCtEntry
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		into[key] = value
	}
	must(t, entries.Err())
}

func TestEveryErrorIsTranslatedWithItsTypeCodeAndRest(t *testing.T) {
	for _, s := range sides {
		b, open, natPort := snatFlow(t, s, tcp)
		sent := backwards(open)
		sent.from, sent.to = s.backendPort, netip.AddrPortFrom(s.lb, natPort)
		got := open
		got.from, got.to = netip.AddrPortFrom(s.lb, natPort), s.backendPort
		for _, kind := range s.kinds() {
			t.Run(fmt.Sprintf("%s, type %d, code %d, %#x", s.name, kind.kind, kind.code, kind.rest), func(t *testing.T) {
				here := *b
				here.t = t
				here.errorBecomes(
					message(s.far, s.vip, kind, quoted(t, backwards(open), 8)),
					message(s.lb, s.backendPort.Addr(), kind, quoted(t, sent, 8)),
					backendMAC(s.backend), LBIcmpDeedICMP_ERROR_TO_BACKEND)
				here.errorBecomes(
					message(s.far, s.lb, kind, quoted(t, got, 8)),
					message(s.vip, s.client, kind, quoted(t, open, 8)),
					[6]uint8(routerMAC), LBIcmpDeedICMP_ERROR_TO_CLIENT)
			})
		}
	}
}

func TestTheHeadersInFrontOfATranslatedErrorStayAsTheyAre(t *testing.T) {
	for _, s := range sides {
		for name, change := range map[string]func(*packet){
			"options of IPv4":        func(p *packet) { p.options = timestampOption(3) },
			"a class and a label":    func(p *packet) { p.tos, p.label = 0xc0, 0x12345 },
			"TTL 2":                  func(p *packet) { p.ttl = 2 },
			"don't fragment":         func(p *packet) { p.fragment = layers.IPv4DontFragment },
			"padding":                func(p *packet) { p.padding = []byte{9, 8, 7, 6, 5, 4, 3, 2, 1, 9, 8, 7, 6, 5, 4, 3} },
			"an odd byte of padding": func(p *packet) { p.padding = []byte{9} },
			"extension headers":      func(p *packet) { p.extensions = extensionsOf(p, padded(hopByHopHeader, 8)) },
			"an atomic fragment":     func(p *packet) { p.extensions = extensionsOf(p, fragment6(0, false, 3)) },
		} {
			t.Run(s.name+", "+name, func(t *testing.T) {
				b, open, natPort := snatFlow(t, s, tcp)
				sent := backwards(open)
				sent.from, sent.to = s.backendPort, netip.AddrPortFrom(s.lb, natPort)
				in := message(s.far, s.vip, s.quench, quoted(t, backwards(open), 8))
				change(&in)
				b.errorBecomes(in, message(s.lb, s.backendPort.Addr(), s.quench, quoted(t, sent, 8)),
					backendMAC(s.backend), LBIcmpDeedICMP_ERROR_TO_BACKEND)
				got := open
				got.from, got.to = netip.AddrPortFrom(s.lb, natPort), s.backendPort
				in = message(s.far, s.lb, s.quench, quoted(t, got, 8))
				change(&in)
				b.errorBecomes(in, message(s.vip, s.client, s.quench, quoted(t, open, 8)),
					[6]uint8(routerMAC), LBIcmpDeedICMP_ERROR_TO_CLIENT)
			})
		}
	}
}

// extensionsOf is the header of a packet of IPv6, none of IPv4.
func extensionsOf(p *packet, e extension) []extension {
	if p.from.Addr().Is4() {
		return nil
	}
	return []extension{e}
}

func TestAWrongChecksumOfAnErrorIsNotRepaired(t *testing.T) {
	for _, s := range sides {
		b, open, _ := snatFlow(t, s, tcp)
		frame := message(s.far, s.vip, s.unreachable, quoted(t, backwards(open), 8)).frame(t)
		frame[l4Offset(frame)+3] ^= 0x10
		verdict, out := b.send(frame)
		if verdict != xdpTX || checksumFaults(out) == nil {
			t.Fatalf("%s: verdict %d, checksum faults: %v", s.name, verdict, checksumFaults(out))
		}
	}
}

func TestAnErrorKeepsThePortOfAServiceOfAllPorts(t *testing.T) {
	for _, s := range sides {
		b, open, natPort := snatFlow(t, s, tcp)
		b.changeBackend(s.backend, func(e *LBBackend) { e.Port = 0 })
		sent := backwards(open)
		sent.from = netip.AddrPortFrom(s.backendPort.Addr(), 80)
		sent.to = netip.AddrPortFrom(s.lb, natPort)
		b.errorBecomes(
			message(s.far, s.vip, s.unreachable, quoted(t, backwards(open), whole)),
			message(s.lb, s.backendPort.Addr(), s.unreachable, quoted(t, sent, whole)),
			backendMAC(s.backend), LBIcmpDeedICMP_ERROR_TO_BACKEND)
	}
}

// The quoted datagram's checksum is made to come out as zero behind the translation.
func TestAQuotedChecksumThatComesOutAsZeroIsAllOnes(t *testing.T) {
	for _, s := range sides {
		b, open, natPort := snatFlow(t, s, udp)
		got := open
		got.from, got.to = netip.AddrPortFrom(s.lb, natPort), s.backendPort
		sent := summingToZero(t, open)
		sent.ttl = 55
		got.payload = sent.payload
		expected := allOnes(sent.frame(t))
		b.errorBecomes(
			message(s.far, s.lb, s.unreachable, quoted(t, got, whole)),
			message(s.vip, s.client, s.unreachable, expected[14:]),
			[6]uint8(routerMAC), LBIcmpDeedICMP_ERROR_TO_CLIENT)
	}
}
