package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

func withExtensions(p packet, extensions ...extension) packet {
	p.extensions = extensions
	return p
}

func TestIPv6ExtensionHeadersInFrontOfTheTransportAreFollowed(t *testing.T) {
	hop, options := padded(hopByHopHeader, 8), padded(destinationHeader, 8)
	for name, extensions := range map[string][]extension{
		"hop-by-hop options":                {hop},
		"destination options":               {options},
		"long destination options":          {padded(destinationHeader, 64)},
		"an atomic fragment":                {fragment6(0, false, 7)},
		"hop-by-hop, then an atomic one":    {hop, fragment6(0, false, 7)},
		"four":                              {hop, options, fragment6(0, false, 7), options},
		"four of destination options":       {options, options, options, options},
		"two hundred and fifty-six bytes":   {padded(destinationHeader, 256)},
		"options of exactly so many in two": {padded(hopByHopHeader, 128), padded(destinationHeader, 128)},
	} {
		for _, open := range []packet{overIPv6(request(40000, "S")), overIPv6(datagram(40000, "query"))} {
			t.Run(name+" of "+open.proto.String(), func(t *testing.T) {
				p := withExtensions(open, extensions...)
				dsr := dsrBalancer6(t)
				out := dsr.forward(p)
				equalFrames(t, out, tunnelledTo6(t, p.frame(t), 3))
				if e := dsr.entry(p); e.RxBytes != uint64(ipLength(p.frame(t))) {
					t.Fatalf("counted %d bytes", e.RxBytes)
				}
				snat := snatBalancer6(t)
				out = snat.forward(p)
				equalFrames(t, out, translated6(p, 40000, 3).frame(t))
				must(t, checksumFaults(out))
				// The same flow without them.
				equalFrames(t, snat.forward(open), translated6(open, 40000, 3).frame(t))
				snat.wantFlows(1, 1)
			})
		}
	}
}

func TestIPv6ExtensionHeadersThatAreNotFollowedAreACountedDrop(t *testing.T) {
	hop, options := padded(hopByHopHeader, 8), padded(destinationHeader, 8)
	p := overIPv6(request(40000, "S"))
	for name, extensions := range map[string][]extension{
		"a routing header":               {padded(routingHeader, 8)},
		"a routing header behind others": {hop, options, padded(routingHeader, 24)},
		"five":                           {hop, options, options, options, options},
		"five, the last an atomic one":   {hop, options, options, options, fragment6(0, false, 7)},
		"more than 256 bytes in one":     {padded(destinationHeader, 264)},
		"more than 256 bytes in two":     {padded(destinationHeader, 256), options},
	} {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer6(t)
			b.drop(withExtensions(p, extensions...).frame(t), "extension_header")
			b.wantFlows(0, 0)
		})
	}
}

func TestIPv6HeadersThatLieAreACountedDrop(t *testing.T) {
	p := overIPv6(request(40000, "S"))
	p.payload = []byte("0123456789")
	edit := func(p packet, at int, value byte) []byte {
		frame := p.frame(t)
		frame[at] = value
		return frame
	}
	length := func(p packet, payload int) []byte {
		frame := p.frame(t)
		binary.BigEndian.PutUint16(frame[18:], uint16(payload))
		return frame
	}
	cut := func(p packet, ip int) []byte {
		frame := length(p, ip-40)
		return frame[:14+ip]
	}
	hop := withExtensions(p, padded(hopByHopHeader, 8))
	udp := overIPv6(datagram(40000, "query"))
	for name, c := range map[string]struct {
		frame  []byte
		reason string
	}{
		"version 4":                                   {edit(p, 14, 0x40), "malformed_ip"},
		"version 0":                                   {edit(p, 14, 0), "malformed_ip"},
		"a payload length beyond the frame":           {length(p, 31), "malformed_ip"},
		"a payload length of 65535":                   {length(p, 65535), "malformed_ip"},
		"a payload length of 0":                       {length(p, 0), "malformed_l4"},
		"a payload length below TCP's header":         {length(p, 19), "malformed_l4"},
		"a payload length below UDP's header":         {length(udp, 7), "malformed_l4"},
		"a TCP data offset of 4":                      {edit(p, 14+40+12, 0x40), "malformed_l4"},
		"a TCP data offset beyond the segment":        {edit(p, 14+40+12, 0x80), "malformed_l4"},
		"a UDP length below its header":               {edit(udp, 14+40+5, 7), "malformed_l4"},
		"a UDP length beyond the packet":              {edit(udp, 14+40+5, 14), "malformed_l4"},
		"a frame cut inside TCP's header":             {cut(p, 40+19), "malformed_l4"},
		"a frame cut behind the IPv6 header":          {cut(p, 40), "malformed_l4"},
		"an extension header cut off whole":           {cut(hop, 40), "malformed_ip"},
		"an extension header cut in the middle":       {cut(hop, 44), "malformed_ip"},
		"a transport header cut off an extension":     {cut(hop, 48), "malformed_l4"},
		"an extension length beyond the packet":       {edit(hop, 14+40+1, 30), "malformed_ip"},
		"a hop-by-hop length that eats the transport": {edit(hop, 14+40+1, 3), "malformed_l4"},
		"a payload length of 0 before an extension":   {length(hop, 0), "malformed_ip"},
		"a payload length that ends in an extension":  {length(hop, 7), "malformed_ip"},
		"a fragment header cut in the middle":         {cut(withExtensions(p, fragment6(0, true, 7)), 46), "malformed_ip"},
	} {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer6(t)
			b.drop(c.frame, c.reason)
			b.wantFlows(0, 0)
		})
	}
}

func TestIPv6ThatIsNotForAServicePassesUntouched(t *testing.T) {
	p := overIPv6(request(40000, "S"))
	to := func(change func(*packet)) []byte { return changed(p, change).frame(t) }
	elsewhere := netip.MustParseAddrPort("[fd41::1]:80")
	for name, frame := range map[string][]byte{
		"another address":              to(func(p *packet) { p.to = elsewhere }),
		"another address, hop limit 1": to(func(p *packet) { p.to, p.ttl = elsewhere, 1 }),
		"another address, a routing header": to(func(p *packet) {
			p.to, p.extensions = elsewhere, []extension{padded(routingHeader, 8)}
		}),
		"another port":             to(func(p *packet) { p.to = netip.AddrPortFrom(vip6, 81) }),
		"another protocol":         to(func(p *packet) { p.proto, p.raw, p.payload = layers.IPProtocolSCTP, true, make([]byte, 20) }),
		"another MAC":              to(func(p *packet) { p.destMAC = otherMAC }),
		"no next header":           to(func(p *packet) { p.proto, p.raw = layers.IPProtocolNoNextHeader, true }),
		"an authentication header": to(func(p *packet) { p.proto, p.raw, p.payload = layers.IPProtocolAH, true, make([]byte, 44) }),
		"a VLAN tag": func() []byte {
			f := p.frame(t)
			return append(append(append([]byte(nil), f[:12]...), 0x81, 0, 0, 1), f[12:]...)
		}(),
		"the EtherType of IPv4":               func() []byte { f := p.frame(t); f[12], f[13] = 8, 0; return f }(),
		"a frame cut in the IPv6 header":      p.frame(t)[:14+39],
		"the balancer's own address, port 22": to(func(p *packet) { p.to = netip.AddrPortFrom(lbAddress6, 22) }),
		"the balancer's own address, malformed": func() []byte {
			f := to(func(p *packet) { p.to = netip.AddrPortFrom(lbAddress6, 40000) })
			f[18] = 0xff
			return f
		}(),
		"the balancer's own address, a routing header": to(func(p *packet) {
			p.to, p.extensions = netip.AddrPortFrom(lbAddress6, 40000), []extension{padded(routingHeader, 8)}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer6(t)
			b.pass(frame)
			b.wantFlows(0, 0)
		})
	}
}

// fragmentsOf cuts a packet's transport header and payload at multiples of 8 bytes.
func fragmentsOf(t testing.TB, p packet, id uint32, cuts ...int) (fragments []packet) {
	t.Helper()
	frame := p.frame(t)
	l4 := frame[l4Offset(frame):]
	cuts = append(append([]int{0}, cuts...), len(l4))
	for i := range len(cuts) - 1 {
		f := p
		f.raw, f.payload = true, l4[cuts[i]:cuts[i+1]]
		f.extensions = append(append([]extension(nil), p.extensions...), fragment6(uint16(cuts[i]/8), i+2 < len(cuts), id))
		fragments = append(fragments, f)
	}
	return fragments
}

func TestIPv6FragmentsFollowTheirFirstOne(t *testing.T) {
	for name, open := range map[string]packet{
		"of a datagram": overIPv6(datagram(40000, string(make([]byte, 3000)))),
		"of a segment":  changed(overIPv6(request(40000, "PA")), func(p *packet) { p.payload = make([]byte, 3000) }),
		"behind an extension header": withExtensions(overIPv6(datagram(40000, string(make([]byte, 3000)))),
			padded(hopByHopHeader, 8)),
	} {
		t.Run(name, func(t *testing.T) {
			dsr, snat := dsrBalancer6(t), snatBalancer6(t)
			whole := translated6(open, 40000, 3)
			for i, f := range fragmentsOf(t, open, 0x89abcdef, 1208, 2416) {
				equalFrames(t, dsr.forward(f), tunnelledTo6(t, f.frame(t), 3))
				// Each fragment is that of the translated packet: one checksum for all.
				want := fragmentsOf(t, whole, 0x89abcdef, 1208, 2416)[i]
				equalFrames(t, snat.forward(f), want.frame(t))
			}
			dsr.wantFlows(1, 0)
			snat.wantFlows(1, 1)
		})
	}
}

func TestIPv6FragmentsOfAReplyFollowTheirFirstOne(t *testing.T) {
	b := snatBalancer6(t)
	open := overIPv6(datagram(40000, "query"))
	b.forward(open)
	back := answer6(3, 40000, uint8(udp), "")
	back.payload = make([]byte, 3000)
	want := fragmentsOf(t, translatedBack(back, open.to, open.from), 5, 1000, 2000)
	for i, f := range fragmentsOf(t, back, 5, 1000, 2000) {
		equalFrames(t, b.forward(f), want[i].frame(t))
	}
}

func TestIPv6FragmentsThatNothingIsKnownOfAreACountedDrop(t *testing.T) {
	open := overIPv6(datagram(40000, string(make([]byte, 3000))))
	tcpOpen := changed(overIPv6(request(40000, "PA")), func(p *packet) { p.payload = make([]byte, 3000) })
	whole, other := fragmentsOf(t, open, 1, 1208, 2416), fragmentsOf(t, open, 2, 1208, 2416)
	segments := fragmentsOf(t, tcpOpen, 1, 1208, 2416)
	for name, c := range map[string]struct {
		first *packet
		then  packet
	}{
		"a later one whose first did not come":       {nil, whole[1]},
		"the last one whose first did not come":      {nil, whole[2]},
		"of another packet":                          {&whole[0], other[1]},
		"of another protocol":                        {&whole[0], segments[1]},
		"of another client":                          {&whole[0], changed(whole[1], func(p *packet) { p.from = netip.MustParseAddrPort("[fd20::101]:1") })},
		"a first one too small for the TCP header":   {nil, fragmentsOf(t, tcpOpen, 1, 16)[0]},
		"a later one that overlaps the TCP header":   {&segments[0], fragmentsOf(t, tcpOpen, 1, 8)[1]},
		"one in the middle of a size not 8's":        {&whole[0], changed(whole[1], func(p *packet) { p.payload = p.payload[:1201] })},
		"a first one of a size not 8's":              {nil, changed(whole[0], func(p *packet) { p.payload = p.payload[:1201] })},
		"one that ends beyond 65535":                 {&whole[0], changed(whole[2], func(p *packet) { p.extensions = []extension{fragment6(8191, false, 1)} })},
		"a first one with a second fragment header":  {nil, changed(whole[0], func(p *packet) { p.extensions = []extension{fragment6(0, true, 1), fragment6(0, false, 1)} })},
		"an atomic one with a fragment header in it": {nil, changed(whole[0], func(p *packet) { p.extensions = []extension{fragment6(0, false, 1), fragment6(0, true, 1)} })},
	} {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer6(t)
			flows := 0
			if c.first != nil {
				b.forward(*c.first)
				flows = 1
			}
			b.drop(c.then.frame(t), "fragment")
			b.wantFlows(flows, 0)
		})
	}
}

func TestIPv6FragmentsAreForgottenAfterTheirTime(t *testing.T) {
	b := dsrBalancer6(t)
	fragments := fragmentsOf(t, overIPv6(datagram(40000, string(make([]byte, 3000)))), 1, 1208)
	b.forward(fragments[0])
	b.configure(func(c *LBLbConfig) { c.FragmentNs = 0 })
	time.Sleep(20 * time.Millisecond)
	b.drop(fragments[1].frame(t), "fragment")
}
