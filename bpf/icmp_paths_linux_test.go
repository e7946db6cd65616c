package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

func TestAnErrorAboutADSRFlowReachesItsBackendWhole(t *testing.T) {
	for _, s := range sides {
		for _, kind := range s.kinds() {
			t.Run(fmt.Sprintf("%s, type %d, code %d, %#x", s.name, kind.kind, kind.code, kind.rest), func(t *testing.T) {
				b := bothFamilies(t, LBLbModeLB_MODE_DSR)
				open := s.open(tcp)
				b.forward(open)
				in := message(s.far, s.vip, kind, quoted(t, backwards(open), 8))
				in.tos = 0xc0
				before := b.flows()
				out := b.forward(in)
				equalFrames(t, out, s.encapsulated(t, in.frame(t), s.backend))
				must(t, checksumFaults(out))
				c := b.counters()
				if c.icmp[LBIcmpDeedICMP_ERROR_TO_BACKEND] != 1 || len(c.icmp) != 1 {
					t.Fatalf("counted %v", c.icmp)
				}
				if after := b.flows(); fmt.Sprint(after) != fmt.Sprint(before) {
					t.Fatalf("flows before %v, after %v", before, after)
				}
			})
		}
	}
}

func TestWhateverAnErrorQuotesOfADSRFlowIsLeftAsItIs(t *testing.T) {
	for _, s := range sides {
		for _, proto := range []layers.IPProtocol{tcp, udp} {
			for name, c := range quoteCases {
				t.Run(fmt.Sprintf("%s, %s, %s", s.name, proto, name), func(t *testing.T) {
					b := bothFamilies(t, LBLbModeLB_MODE_DSR)
					open := s.open(proto)
					b.forward(open)
					got := backwards(open)
					c.change(&got)
					in := message(s.far, s.vip, s.tooBig, quoted(t, got, c.l4))
					in.padding = []byte{1, 2, 3, 4, 5}
					equalFrames(t, b.forward(in), s.encapsulated(t, in.frame(t), s.backend))
				})
			}
		}
	}
}

// moved is a balancer of a mode whose services' tables hold other backends than when the
// flow of open began.
func moved(t testing.TB, s side, mode LBLbMode, open packet) *balancer {
	t.Helper()
	b := bothFamilies(t, mode)
	b.forward(open)
	id := map[bool]uint32{false: 0, true: 2}[s.vip.Is6()]
	b.serve(id, netip.AddrPortFrom(s.vip, 80), uint8(tcp), LBLbModeLB_MODE_DSR, 7, 9, 10)
	return b
}

func TestAnErrorGoesWhereItsFlowIsNotWhereTheHashPoints(t *testing.T) {
	for _, s := range sides {
		for name, second := range map[string]bool{"a new flow": false, "an established one": true} {
			t.Run(s.name+", "+name, func(t *testing.T) {
				open := s.open(tcp)
				b := moved(t, s, LBLbModeLB_MODE_DSR, open)
				if second {
					b.forward(changed(open, func(p *packet) { p.flags = "A" }))
				}
				in := message(s.far, s.vip, s.tooBig, quoted(t, backwards(open), 8))
				equalFrames(t, b.forward(in), s.encapsulated(t, in.frame(t), s.backend))
			})
		}
	}
}

func TestAnErrorAboutAFlowThatWasForgottenGoesWhereTheHashPoints(t *testing.T) {
	for _, s := range sides {
		for name, forget := range map[string]func(*balancer, packet){
			"evicted": (*balancer).evict,
			"expired": func(b *balancer, p packet) { b.age(p, lifeSYN+time.Second) },
		} {
			t.Run(s.name+", "+name, func(t *testing.T) {
				open := s.open(tcp)
				b := moved(t, s, LBLbModeLB_MODE_DSR, open)
				forget(b, open)
				in := message(s.far, s.vip, s.tooBig, quoted(t, backwards(open), 8))
				out := b.forward(in)
				b.forward(open) // which opens the flow anew
				now := b.entry(open).BackendId
				if now != 9 && now != 10 {
					t.Fatalf("the flow went to backend %d", now)
				}
				equalFrames(t, out, s.encapsulated(t, in.frame(t), now))
			})
		}
	}
}

// Any backend would be as good as another one, which is to say as bad.
func TestAnErrorAboutAnUnknownFlowOfARandomServiceGoesNowhere(t *testing.T) {
	for _, s := range sides {
		b := bothFamilies(t, LBLbModeLB_MODE_DSR)
		b.changeService(netip.AddrPortFrom(s.vip, 80), uint8(tcp), func(e *LBService) { e.Flags = LBServiceFlagSERVICE_RANDOM })
		open := s.open(tcp)
		in := message(s.far, s.vip, s.tooBig, quoted(t, backwards(open), 8))
		b.drop(in.frame(t), "no_flow")
		b.forward(open)
		equalFrames(t, b.forward(in), s.encapsulated(t, in.frame(t), s.backend))
	}
}

func TestAnErrorByL2HasOtherMACsAlone(t *testing.T) {
	for _, s := range sides {
		b := bothFamilies(t, LBLbModeLB_MODE_DSR)
		b.changeBackend(s.backend, func(e *LBBackend) { e.Encap = LBLbEncapLB_ENCAP_L2 })
		in := message(s.far, s.vip, s.tooBig, quoted(t, backwards(s.open(tcp)), whole))
		m := backendMAC(s.backend)
		equalFrames(t, b.forward(in), changed(in, func(p *packet) { p.sourceMAC, p.destMAC = lbMAC, m[:] }).frame(t))
	}
}

func TestAnErrorAboutASNATFlowThatIsNotKnown(t *testing.T) {
	for _, s := range sides {
		b, open, natPort := snatFlow(t, s, tcp)
		reported := backwards(open)
		reported.to = netip.AddrPortFrom(s.client, 1235)
		b.drop(message(s.far, s.vip, s.unreachable, quoted(t, reported, 8)).frame(t), "no_flow")

		sent := open
		sent.from, sent.to = netip.AddrPortFrom(s.lb, natPort^1), s.backendPort
		b.pass(message(s.far, s.lb, s.unreachable, quoted(t, sent, 8)).frame(t))
		sent.from, sent.to = netip.AddrPortFrom(s.lb, natPort), netip.AddrPortFrom(s.backendPort.Addr(), 8081)
		b.pass(message(s.far, s.lb, s.unreachable, quoted(t, sent, 8)).frame(t))
		sent.to, sent.proto, sent.flags = s.backendPort, udp, ""
		b.pass(message(s.far, s.lb, s.unreachable, quoted(t, sent, 8)).frame(t))
		// The balancer's own connections, to a health check's port for instance.
		sent = open
		sent.from, sent.to = netip.AddrPortFrom(s.lb, 20000), s.backendPort
		b.pass(message(s.far, s.lb, s.unreachable, quoted(t, sent, 8)).frame(t))

		reported = backwards(open)
		reported.from = netip.AddrPortFrom(s.vip, 81)
		b.pass(message(s.far, s.vip, s.unreachable, quoted(t, reported, 8)).frame(t))
	}
}

func TestAnErrorAboutASNATFlowThatExpired(t *testing.T) {
	for _, s := range sides {
		b, open, natPort := snatFlow(t, s, tcp)
		b.age(open, lifeSYN+time.Second)
		b.drop(message(s.far, s.vip, s.unreachable, quoted(t, backwards(open), 8)).frame(t), "no_flow")
		sent := open
		sent.from, sent.to = netip.AddrPortFrom(s.lb, natPort), s.backendPort
		b.pass(message(s.far, s.lb, s.unreachable, quoted(t, sent, 8)).frame(t))
	}
}

func TestAnErrorReachesTheClientOfAFlowThatWasEvicted(t *testing.T) {
	for _, s := range sides {
		b, open, natPort := snatFlow(t, s, tcp)
		b.evict(open)
		sent := open
		sent.from, sent.to = netip.AddrPortFrom(s.lb, natPort), s.backendPort
		b.errorBecomes(
			message(s.far, s.lb, s.unreachable, quoted(t, sent, 8)),
			message(s.vip, s.client, s.unreachable, quoted(t, open, 8)),
			[6]uint8(routerMAC), LBIcmpDeedICMP_ERROR_TO_CLIENT)
	}
}

func TestAnErrorThatQuotesNoPacketOfAFlowReachesTheStackUntouched(t *testing.T) {
	for _, s := range sides {
		b, open, natPort := snatFlow(t, s, tcp)
		sent := open
		sent.from, sent.to = netip.AddrPortFrom(s.lb, natPort), s.backendPort
		reported := backwards(open)
		edit := func(p packet, change func(ip []byte) []byte) []byte { return change(quoted(t, p, whole)) }
		for name, quote := range map[string]func(p packet) []byte{
			"nothing":            func(packet) []byte { return nil },
			"a part of a header": func(p packet) []byte { return quoted(t, p, 0)[:s.header-1] },
			"a header alone":     func(p packet) []byte { return quoted(t, p, 0) },
			"seven bytes":        func(p packet) []byte { return quoted(t, p, 7) },
			"another version": func(p packet) []byte {
				return edit(p, func(ip []byte) []byte { ip[0] ^= 0x20; return ip })
			},
			"another source": func(p packet) []byte {
				p.from = netip.AddrPortFrom(s.far, p.from.Port())
				return quoted(t, p, whole)
			},
			"source and destination exchanged": func(p packet) []byte {
				p.from, p.to = p.to, p.from
				return quoted(t, p, whole)
			},
			"an ICMP echo": func(p packet) []byte {
				p.proto, p.icmp.kind = icmp4, echoReply
				if s.vip.Is6() {
					p.proto, p.icmp.kind = icmp6, echoReply6
				}
				return quoted(t, p, whole)
			},
			"another protocol": func(p packet) []byte {
				p.proto, p.raw = layers.IPProtocolSCTP, true
				return quoted(t, p, whole)
			},
			"a later fragment": func(p packet) []byte {
				p.offset = 100
				p.extensions = extensionsOf(&p, fragment6(100, false, 1))
				return quoted(t, p, whole)
			},
			"an IHL of 4": func(p packet) []byte {
				return edit(p, func(ip []byte) []byte {
					if s.vip.Is6() {
						return nil
					}
					ip[0] = 0x44
					return ip
				})
			},
			"an IHL beyond the packet": func(p packet) []byte {
				return edit(p, func(ip []byte) []byte {
					if s.vip.Is6() {
						return nil
					}
					ip[0] = 0x4f
					return ip
				})
			},
		} {
			t.Run(s.name+", "+name, func(t *testing.T) {
				here := *b
				here.t = t
				here.pass(message(s.far, s.lb, s.unreachable, quote(sent)).frame(t))
				here.pass(message(s.far, s.vip, s.unreachable, quote(reported)).frame(t))
			})
		}
	}
}

// The bytes behind the IP packet are no part of a quote.
func TestAnErrorsPaddingIsNoQuote(t *testing.T) {
	for _, s := range sides {
		b, open, _ := snatFlow(t, s, tcp)
		in := message(s.far, s.vip, s.unreachable, quoted(t, backwards(open), 0))
		frame := in.frame(t)
		ports := quoted(t, backwards(open), 20)[s.header:]
		b.pass(append(frame, ports...))
	}
}

func TestAnErrorIsForwardedUnderTheRulesOfAllPackets(t *testing.T) {
	for _, s := range sides {
		open := s.open(tcp)
		toVIP := message(s.far, s.vip, s.unreachable, quoted(t, backwards(open), 8))
		for _, mode := range []LBLbMode{LBLbModeLB_MODE_DSR, LBLbModeLB_MODE_SNAT} {
			b := bothFamilies(t, mode)
			b.forward(open)
			b.drop(changed(toVIP, func(p *packet) { p.ttl = 1 }).frame(t), "ttl_expired")
			b.drop(changed(toVIP, func(p *packet) { p.ttl = 0 }).frame(t), "ttl_expired")
			b.changeBackend(s.backend, func(e *LBBackend) { e.MacSlot = 2 })
			b.drop(toVIP.frame(t), "no_neighbour")
			b.changeBackend(s.backend, func(e *LBBackend) { e.State = LBBackendStateBACKEND_GONE })
			b.drop(toVIP.frame(t), "no_backend")
		}
		b, open, natPort := snatFlow(t, s, tcp)
		sent := open
		sent.from, sent.to = netip.AddrPortFrom(s.lb, natPort), s.backendPort
		b.pass(changed(message(s.far, s.lb, s.unreachable, quoted(t, sent, 8)), func(p *packet) { p.ttl = 1 }).frame(t))
	}
}

// RFC 1122 forbids an error about an error, so the one that does not fit is dropped.
func TestAnErrorThatDoesNotFitOnceEncapsulatedIsDropped(t *testing.T) {
	for _, s := range sides {
		b := bothFamilies(t, LBLbModeLB_MODE_DSR)
		open := s.open(tcp)
		b.forward(open)
		large := backwards(open)
		large.payload = make([]byte, 1500-2*s.header-8-s.header-20)
		in := message(s.far, s.vip, s.unreachable, quoted(t, large, 2000))
		equalFrames(t, b.forward(in), s.encapsulated(t, in.frame(t), s.backend))
		large.payload = append(large.payload, 0)
		in = message(s.far, s.vip, s.unreachable, quoted(t, large, 2000))
		b.drop(in.frame(t), "mtu_exceeded")
	}
}

func TestAClientThatTheBalancerTellsOfTheMTUHearsWhatItSent(t *testing.T) {
	for _, s := range sides {
		b := bothFamilies(t, LBLbModeLB_MODE_DSR)
		p := changed(s.open(tcp), func(p *packet) {
			p.fragment, p.payload, p.flags = layers.IPv4DontFragment, make([]byte, 1500-s.header-20), "A"
		})
		verdict, out := b.send(p.frame(t))
		if verdict != xdpTX {
			t.Fatalf("%s: verdict %d", s.name, verdict)
		}
		if got := binary.BigEndian.Uint16(out[14+s.header+6:]); int(got) != 1500-s.header {
			t.Fatalf("%s: MTU %d", s.name, got)
		}
		must(t, checksumFaults(out))
	}
}
