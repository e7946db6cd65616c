package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// snatBalancer6 serves TCP 80 and UDP 53 of IPv6's VIP by SNAT with backend 3.
func snatBalancer6(t testing.TB) *balancer {
	t.Helper()
	b := newBalancer(t)
	b.serve(1, netip.AddrPortFrom(vip6, 80), uint8(tcp), LBLbModeLB_MODE_SNAT, 3, 3)
	b.serve(2, netip.AddrPortFrom(vip6, 53), uint8(udp), LBLbModeLB_MODE_SNAT, 3, 3)
	return b
}

func TestSNATTranslatesIPv6BothWays(t *testing.T) {
	for name, change := range map[string]func(*packet){
		"a segment":                    func(p *packet) { p.flags = "PA" },
		"a segment with data":          func(p *packet) { p.payload = []byte("GET / HTTP/1.1\r\n\r\n") },
		"a payload of odd size":        func(p *packet) { p.payload = []byte("odd") },
		"a full-size segment":          func(p *packet) { p.payload = make([]byte, 1440) },
		"a class and a label":          func(p *packet) { p.tos, p.label = 0xb9, 0xabcde },
		"hop limit 2":                  func(p *packet) { p.ttl = 2 },
		"padding behind the packet":    func(p *packet) { p.padding = []byte{1, 2, 3} },
		"an extension header in front": func(p *packet) { p.extensions = []extension{padded(hopByHopHeader, 8)} },
	} {
		for _, proto := range []uint8{uint8(tcp), uint8(udp)} {
			t.Run(name+" of protocol "+map[uint8]string{uint8(tcp): "TCP", uint8(udp): "UDP"}[proto], func(t *testing.T) {
				b := snatBalancer6(t)
				open := overIPv6(request(40000, "S"))
				if proto == uint8(udp) {
					open = overIPv6(datagram(40000, "query"))
				}
				equalFrames(t, b.forward(open), translated6(open, 40000, 3).frame(t))
				p := open
				p.flags = "A"
				change(&p)
				for range 2 { // by the way through lb_slow6, and then that through lb_fast6
					out := b.forward(p)
					equalFrames(t, out, translated6(p, 40000, 3).frame(t))
					must(t, checksumFaults(out))
				}
				back := answer6(3, 40000, proto, "A")
				change(&back)
				out := b.forward(back)
				equalFrames(t, out, translatedBack(back, open.to, open.from).frame(t))
				must(t, checksumFaults(out))
				if e := b.entry(open); e.RxPackets != 3 || e.TxPackets != 1 || e.NatPort != port(40000) {
					t.Fatalf("remembered %+v", e)
				}
				b.wantFlows(1, 1)
			})
		}
	}
}

func TestAnIPv6ClientsPortOutsideThePoolIsReplaced(t *testing.T) {
	b := snatBalancer6(t)
	p := overIPv6(request(1234, "S"))
	out := b.forward(p)
	chosen := sourcePort(out)
	if chosen < natMin {
		t.Fatalf("port %d is outside the pool", chosen)
	}
	equalFrames(t, out, translated6(p, chosen, 3).frame(t))
	must(t, checksumFaults(out))
	back := answer6(3, chosen, uint8(tcp), "SA")
	equalFrames(t, b.forward(back), translatedBack(back, p.to, p.from).frame(t))
}

func TestTwoIPv6ClientsOfOnePortGetDifferentPorts(t *testing.T) {
	b := snatBalancer6(t)
	first := overIPv6(request(40000, "S"))
	second := first
	second.from = netip.AddrPortFrom(netip.MustParseAddr("fd20::101"), 40000)
	if got := sourcePort(b.forward(first)); got != 40000 {
		t.Fatalf("the first got port %d", got)
	}
	chosen := sourcePort(b.forward(second))
	if chosen == 40000 {
		t.Fatal("both got port 40000")
	}
	back := answer6(3, chosen, uint8(tcp), "SA")
	equalFrames(t, b.forward(back), translatedBack(back, second.to, second.from).frame(t))
	back = answer6(3, 40000, uint8(tcp), "SA")
	equalFrames(t, b.forward(back), translatedBack(back, first.to, first.from).frame(t))
}

func TestAnIPv6DatagramsChecksumOfZeroStaysZero(t *testing.T) {
	b := snatBalancer6(t)
	p := overIPv6(datagram(40000, "query"))
	p.unsummed = true
	for range 2 {
		equalFrames(t, b.forward(p), translated6(p, 40000, 3).frame(t))
	}
	back := answer6(3, 40000, uint8(udp), "")
	back.payload, back.unsummed = []byte("reply"), true
	equalFrames(t, b.forward(back), translatedBack(back, p.to, p.from).frame(t))
}

func TestAnIPv6DatagramsChecksumThatComesOutAsZeroIsSentAsAllOnes(t *testing.T) {
	for name, back := range map[string]bool{"to the backend": false, "to the client": true} {
		t.Run(name, func(t *testing.T) {
			b := snatBalancer6(t)
			open := overIPv6(datagram(40000, "query"))
			b.forward(open)
			in, want := open, translated6(open, 40000, 3)
			if back {
				in = answer6(3, 40000, uint8(udp), "")
				want = translatedBack(in, open.to, open.from)
			}
			want = summingToZero(t, want)
			in.payload = want.payload
			expected := allOnes(want.frame(t))
			out := b.forward(in)
			equalFrames(t, out, expected)
			must(t, checksumFaults(out))
		})
	}
}

func TestAWrongIPv6ChecksumIsNotRepaired(t *testing.T) {
	b := snatBalancer6(t)
	p := overIPv6(request(40000, "S"))
	frame, want := p.frame(t), translated6(p, 40000, 3).frame(t)
	at := 14 + 40 + 16
	off := func(f []byte) {
		sum := binary.BigEndian.Uint16(f[at:])
		binary.BigEndian.PutUint16(f[at:], uint16(sumWords([]byte{0x12, 0x34}, uint32(sum))))
	}
	off(frame)
	off(want)
	_, out := b.send(frame)
	equalFrames(t, out, want)
	if checksumFaults(out) == nil {
		t.Fatal("the checksum became right")
	}
}

func TestAnIPv6ReplyOfNoFlowReachesTheStack(t *testing.T) {
	b := snatBalancer6(t)
	b.forward(overIPv6(request(40000, "S")))
	for name, p := range map[string]packet{
		"another port of the pool":  answer6(3, 40001, uint8(tcp), "SA"),
		"a port outside the pool":   answer6(3, 22, uint8(tcp), "SA"),
		"another backend":           answer6(4, 40000, uint8(tcp), "SA"),
		"another protocol":          answer6(3, 40000, uint8(udp), ""),
		"a hop limit of one":        changed(answer6(3, 40001, uint8(tcp), "SA"), func(p *packet) { p.ttl = 1 }),
		"an extension header first": changed(answer6(3, 40001, uint8(tcp), "SA"), func(p *packet) { p.extensions = []extension{padded(hopByHopHeader, 8)} }),
	} {
		t.Run(name, func(t *testing.T) {
			here := *b
			here.t = t
			here.pass(p.frame(t))
		})
	}
}

func TestAnIPv6ClientThatIsTheBackendGetsItsPacketBackBySNAT(t *testing.T) {
	b := dsrBalancer6(t)
	p := overIPv6(request(40000, "S"))
	p.from = netip.AddrPortFrom(backendAddress6(3), 40000)
	equalFrames(t, b.forward(p), translated6(p, 40000, 3).frame(t))
}
