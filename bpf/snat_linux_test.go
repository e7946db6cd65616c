package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
)

var (
	web = netip.AddrPortFrom(vip, 80)
	dns = netip.AddrPortFrom(vip, 53)
)

// snatBalancer serves the VIP's TCP port 80 and UDP port 53 in SNAT with backend 3.
func snatBalancer(t testing.TB) *balancer {
	t.Helper()
	b := newBalancer(t)
	b.serveBoth(LBLbModeLB_MODE_SNAT, 3)
	return b
}

// natKey is the key of a backend's reply.
func natKey(backend uint32, natPort uint16, proto layers.IPProtocol) any {
	return key(backendPort(backend), netip.AddrPortFrom(lbAddress, natPort), uint8(proto))
}

// way reads the way back from backend 3's port.
func (b *balancer) way(natPort uint16) (LBNatEntry, error) {
	e, in := find[LBNatEntry](b.t, natKey(3, natPort, tcp), b.objects.Nat4, b.objects.NewNat4)
	if in == nil {
		return e, ebpf.ErrKeyNotExist
	}
	return e, nil
}

func TestSNATTranslatesTheClientsPacket(t *testing.T) {
	with := func(p packet, change func(*packet)) packet {
		change(&p)
		return p
	}
	segment := request(40001, "PA")
	segment.payload = []byte("GET / HTTP/1.1\r\n\r\n")
	cases := map[string]packet{
		"a SYN":                   request(40000, "S"),
		"a segment with data":     segment,
		"a segment of odd length": with(segment, func(p *packet) { p.payload = []byte("abc") }),
		"a full-size segment":     with(segment, func(p *packet) { p.payload = make([]byte, 1460) }),
		"TCP options": with(segment, func(p *packet) {
			p.tcpOpts = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
		}),
		"one word of IP options":      with(segment, func(p *packet) { p.options = ipOptions(1) }),
		"ten words of IP options":     with(segment, func(p *packet) { p.options = ipOptions(10) }),
		"TOS, id and DF are kept":     with(segment, func(p *packet) { p.tos, p.id, p.fragment = 0xb8, 0xbeef, layers.IPv4DontFragment }),
		"the smallest TTL that lives": with(segment, func(p *packet) { p.ttl = 2 }),
		"the largest TTL":             with(segment, func(p *packet) { p.ttl = 255 }),
		"padding behind the packet":   with(segment, func(p *packet) { p.padding = make([]byte, 6) }),
		"the pool's first port":       request(natMin, "S"),
		"the pool's last port":        request(natMax, "S"),
		"a UDP datagram":              datagram(40002, "query"),
		"an empty UDP datagram":       datagram(40003, ""),
		"a UDP datagram unsummed":     with(datagram(40004, "query"), func(p *packet) { p.unsummed = true }),
	}
	for name, p := range cases {
		t.Run(name, func(t *testing.T) {
			b := snatBalancer(t)
			out := b.forward(p)
			must(t, checksumFaults(out))
			equalFrames(t, out, translated(p, p.from.Port(), 3).frame(t))
			if e := b.entry(p); e.Mode != LBLbModeLB_MODE_SNAT || e.NatPort != port(p.from.Port()) {
				t.Errorf("conntrack entry %+v", e)
			}
			b.wantFlows(1, 1)
		})
	}
}

func TestSNATBringsTheReplyBack(t *testing.T) {
	reply := answer(3, 40000, uint8(tcp), "A")
	reply.payload = []byte("HTTP/1.1 200 OK\r\n\r\n")
	with := func(p packet, change func(*packet)) packet {
		change(&p)
		return p
	}
	cases := map[string]packet{
		"a SYN-ACK":                   answer(3, 40000, uint8(tcp), "SA"),
		"a segment with data":         reply,
		"IP options":                  with(reply, func(p *packet) { p.options = ipOptions(3) }),
		"TOS, id and DF are kept":     with(reply, func(p *packet) { p.tos, p.id, p.fragment = 0x10, 7, layers.IPv4DontFragment }),
		"the smallest TTL that lives": with(reply, func(p *packet) { p.ttl = 2 }),
		"padding behind the packet":   with(answer(3, 40000, uint8(tcp), "A"), func(p *packet) { p.padding = make([]byte, 6) }),
		"a UDP datagram":              with(answer(3, 40000, uint8(udp), ""), func(p *packet) { p.payload = []byte("response") }),
		"a UDP datagram unsummed":     with(answer(3, 40000, uint8(udp), ""), func(p *packet) { p.unsummed = true }),
	}
	for name, p := range cases {
		t.Run(name, func(t *testing.T) {
			b := snatBalancer(t)
			first, front := request(40000, "S"), web
			if p.proto == udp {
				first, front = datagram(40000, "query"), dns
			}
			b.forward(first)
			out := b.forward(p)
			must(t, checksumFaults(out))
			equalFrames(t, out, translatedBack(p, front, first.from).frame(t))
			length := binary.BigEndian.Uint16(p.frame(t)[16:])
			if e := b.entry(first); e.TxPackets != 1 || e.TxBytes != uint64(length) || e.RxPackets != 1 {
				t.Errorf("conntrack entry %+v", e)
			}
		})
	}
}

func TestSNATCountsBothDirections(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	b.forward(answer(3, 40000, uint8(tcp), "SA"))
	b.forward(request(40000, "A"))
	want := LBTraffic{RxPackets: 2, RxBytes: 80, TxPackets: 1, TxBytes: 40, Connections: 1}
	if got := b.counters(); got.service[1] != want || got.backend[3] != want {
		t.Errorf("service %+v, backend %+v, want %+v", got.service, got.backend, want)
	}
}

func TestUDPChecksumThatComesOutAsZeroIsSentAsAllOnes(t *testing.T) {
	b := snatBalancer(t)
	p := datagram(40000, "\x00\x00")
	frame := translated(p, 40000, 3).frame(t)
	// The checksum as payload makes the translated packet's sum all ones.
	p.payload = frame[l4Offset(frame)+6:][:2]
	out := b.forward(p)
	if sum := binary.BigEndian.Uint16(out[l4Offset(out)+6:]); sum != 0xffff {
		t.Errorf("checksum %#04x, want 0xffff", sum)
	}
	equalFrames(t, out, translated(p, 40000, 3).frame(t))
}

func TestAWrongChecksumStaysWrong(t *testing.T) {
	b := snatBalancer(t)
	for name, at := range map[string]int{"IP": 24, "TCP": 34 + 16} {
		t.Run(name, func(t *testing.T) {
			in := request(40000, "A").frame(t)
			in[at] ^= 0x55
			verdict, out := b.send(in)
			if verdict != xdpTX {
				t.Fatalf("verdict %d", verdict)
			}
			if checksumFaults(out) == nil {
				t.Error("the balancer repaired a checksum that came in wrong")
			}
		})
	}
}

func TestAPortOutsideThePoolBecomesOneInside(t *testing.T) {
	b := snatBalancer(t)
	b.configure(func(c *LBLbConfig) { c.NatMin, c.NatMax = 40000, 49999 })
	ports := map[uint16]bool{}
	for _, from := range []uint16{1, 1024, 32768, 39999, 50000, 65535} {
		p := request(from, "S")
		out := b.forward(p)
		got := sourcePort(out)
		if got < 40000 || got > 49999 {
			t.Errorf("client port %d became %d, outside the pool", from, got)
		}
		ports[got] = true
		equalFrames(t, out, translated(p, got, 3).frame(t))
		back := b.forward(answer(3, got, uint8(tcp), "SA"))
		equalFrames(t, back, translatedBack(answer(3, got, uint8(tcp), "SA"), web, p.from).frame(t))
	}
	if len(ports) != 6 {
		t.Errorf("6 flows share %d ports", len(ports))
	}
}

func TestTwoClientsWithOnePortGetDifferentOnes(t *testing.T) {
	b := snatBalancer(t)
	one, two := request(40000, "S"), request(40000, "S")
	two.from = addrPort("20.1.1.101:40000")
	two.sourceMAC = otherMAC
	if got := sourcePort(b.forward(one)); got != 40000 {
		t.Fatalf("the first client's port became %d", got)
	}
	second := sourcePort(b.forward(two))
	if second == 40000 {
		t.Fatal("both clients have port 40000 towards the backend")
	}
	want := translatedBack(answer(3, 40000, uint8(tcp), "SA"), web, one.from)
	equalFrames(t, b.forward(answer(3, 40000, uint8(tcp), "SA")), want.frame(t))
	want = translatedBack(answer(3, second, uint8(tcp), "SA"), web, two.from)
	want.destMAC = otherMAC
	equalFrames(t, b.forward(answer(3, second, uint8(tcp), "SA")), want.frame(t))
	b.wantFlows(2, 2)
}

func TestOnePortServesFlowsToDifferentBackends(t *testing.T) {
	b := newBalancer(t)
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_SNAT, 1, 3)
	b.serve(2, netip.AddrPortFrom(vip, 81), uint8(tcp), LBLbModeLB_MODE_SNAT, 1, 4)
	other := request(40000, "S")
	other.to = netip.AddrPortFrom(vip, 81)
	if a, c := sourcePort(b.forward(request(40000, "S"))), sourcePort(b.forward(other)); a != 40000 || c != 40000 {
		t.Errorf("ports %d and %d, want 40000 twice", a, c)
	}
}

func TestAnExhaustedPoolDropsNewFlowsAndKeepsOldOnes(t *testing.T) {
	b := snatBalancer(t)
	b.configure(func(c *LBLbConfig) { c.NatMin, c.NatMax = 40000, 40000 })
	b.forward(request(40000, "S"))
	b.drop(request(1000, "S").frame(t), "nat_exhausted")
	taken := request(40000, "S")
	taken.from = addrPort("20.1.1.101:40000")
	b.drop(taken.frame(t), "nat_exhausted")
	b.wantFlows(1, 1)
	b.forward(request(40000, "A"))
	b.forward(answer(3, 40000, uint8(tcp), "A"))
}

func TestAPoolWithoutPortsDropsEveryFlow(t *testing.T) {
	b := snatBalancer(t)
	b.configure(func(c *LBLbConfig) { c.NatMin, c.NatMax = 40001, 40000 })
	b.drop(request(40000, "S").frame(t), "nat_exhausted")
	b.wantFlows(0, 0)
}

func TestRepliesThatBelongToNoFlowPass(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	other := answer(3, 40000, uint8(tcp), "A")
	other.from = addrPort("20.1.9.9:8080")
	otherPort := answer(3, 40000, uint8(tcp), "A")
	otherPort.from = netip.AddrPortFrom(backendAddress(3), 8081)
	for name, p := range map[string]packet{
		"a port that no flow has":          answer(3, 40001, uint8(tcp), "A"),
		"the other protocol":               answer(3, 40000, uint8(udp), ""),
		"another host":                     other,
		"another port of the backend":      otherPort,
		"a port of the balancer's own":     answer(3, 22, uint8(tcp), "S"),
		"the port right below the pool":    answer(3, natMin-1, uint8(tcp), "S"),
		"a packet to the pool from nobody": answer(9, 65535, uint8(tcp), "S"),
	} {
		t.Run(name, func(t *testing.T) { b.pass(p.frame(t)) })
	}
}

// TestTwoFirstPacketsAtOnceMakeOneFlow sends the SYN and its retransmission on
// two CPUs at a time; of thousands of pairs some meet between look-up and insert.
func TestTwoFirstPacketsAtOnceMakeOneFlow(t *testing.T) {
	for name, firstPort := range map[string]uint16{
		"with the client's own port": natMin, "with a random port": 1024,
	} {
		t.Run(name, func(t *testing.T) {
			const flows = 1000
			b := snatBalancer(t)
			for i := range uint16(flows) {
				frame := request(firstPort+i, "S").frame(t)
				start := make(chan struct{})
				faults := make(chan error, 2)
				var ready atomic.Int32
				for range cap(faults) {
					go func() {
						<-start
						// Meet as closely as two threads can; alone on one CPU, do not wait.
						ready.Add(1)
						for spin := 0; ready.Load() < 2 && spin < 100_000; spin++ {
						}
						verdict, _, err := b.objects.Lb.Test(frame)
						if err == nil && verdict != xdpTX {
							err = fmt.Errorf("a SYN was not forwarded: verdict %d", verdict)
						}
						faults <- err
					}()
				}
				close(start)
				if err := errors.Join(<-faults, <-faults); err != nil {
					t.Fatalf("flow %d: %v; drops %v", i, err, b.counters().drops)
				}
				e := b.entry(request(firstPort+i, ""))
				natPort := port(e.NatPort)
				if way, err := b.way(natPort); err != nil || way.ClientPort != port(firstPort+i) {
					t.Fatalf("flow %d: its way back by port %d is %+v (%v)", i, natPort, way, err)
				}
			}
			b.wantFlows(flows, flows)
			if got := b.counters().service[1]; got.Connections != flows || got.RxPackets != 2*flows {
				t.Errorf("counted %+v, want %d connections and %d packets", got, flows, 2*flows)
			}
		})
	}
}

func TestRepliesFollowTheClientsNextHop(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	moved := request(40000, "A")
	moved.sourceMAC = otherMAC
	b.forward(moved)
	want := translatedBack(answer(3, 40000, uint8(tcp), "A"), web, moved.from)
	want.destMAC = otherMAC
	equalFrames(t, b.forward(answer(3, 40000, uint8(tcp), "A")), want.frame(t))
}
