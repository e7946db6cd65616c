package oracle

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	clientMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	balancerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	backendMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 3}
	toBackend   = Leg{From: balancerMAC, To: backendMAC}
	toClient    = Leg{From: balancerMAC, To: clientMAC}
)

// world are the addresses of one family.
type world struct {
	client, vip, balancer, backend netip.AddrPort
}

var worlds = map[string]world{
	"IPv4": {at("20.1.1.100:40000"), at("40.1.1.1:80"), at("20.1.1.1:40000"), at("20.1.1.10:8080")},
	"IPv6": {at("[fd00::100]:40000"), at("[fd00:40::1]:80"), at("[fd00::1]:40000"), at("[fd00::10]:8080")},
}

func at(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// network builds IP headers with gopacket.
func network(from, to netip.Addr, protocol layers.IPProtocol) (layers.EthernetType, gopacket.SerializableLayer) {
	if from.Is4() {
		return layers.EthernetTypeIPv4, &layers.IPv4{Version: 4, TTL: 64, TOS: 0x28, Id: 7, Protocol: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	}
	return layers.EthernetTypeIPv6, &layers.IPv6{Version: 6, HopLimit: 64, TrafficClass: 0x28, NextHeader: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
}

// serialized is a frame whose lengths and checksums gopacket has filled in.
func serialized(t testing.TB, leg Leg, parts ...gopacket.SerializableLayer) Frame {
	t.Helper()
	kind := layers.EthernetTypeIPv4
	if _, six := parts[0].(*layers.IPv6); six {
		kind = layers.EthernetTypeIPv6
	}
	parts = append([]gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: leg.From, DstMAC: leg.To, EthernetType: kind}}, parts...)
	for _, p := range parts {
		if l4, ok := p.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := l4.SetNetworkLayerForChecksum(parts[1].(gopacket.NetworkLayer)); err != nil {
				t.Fatal(err)
			}
		}
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	f, err := Read(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func segment(t testing.TB, from, to netip.AddrPort) Frame {
	_, ip := network(from.Addr(), to.Addr(), layers.IPProtocolTCP)
	return serialized(t, Leg{clientMAC, balancerMAC}, ip, &layers.TCP{
		SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), Seq: 1000, Ack: 2000, ACK: true, PSH: true, Window: 500,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}},
	}, gopacket.Payload("GET / HTTP/1.1"))
}

func datagram(t testing.TB, from, to netip.AddrPort, payload string) Frame {
	_, ip := network(from.Addr(), to.Addr(), layers.IPProtocolUDP)
	return serialized(t, Leg{clientMAC, balancerMAC}, ip, &layers.UDP{
		SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port()),
	}, gopacket.Payload(payload))
}

func echo(t testing.TB, w world, reply bool, leg Leg) Frame {
	from, to := w.client.Addr(), w.vip.Addr()
	if reply {
		from, to = to, from
	}
	if from.Is4() {
		_, ip := network(from, to, layers.IPProtocolICMPv4)
		kind := map[bool]uint8{false: layers.ICMPv4TypeEchoRequest, true: layers.ICMPv4TypeEchoReply}[reply]
		return serialized(t, leg, ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: 3, Seq: 4}, gopacket.Payload("ping"))
	}
	_, ip := network(from, to, layers.IPProtocolICMPv6)
	kind := map[bool]uint8{false: layers.ICMPv6TypeEchoRequest, true: layers.ICMPv6TypeEchoReply}[reply]
	return serialized(t, leg, ip, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)},
		&layers.ICMPv6Echo{Identifier: 3, SeqNumber: 4}, gopacket.Payload("ping"))
}

// report is an ICMP error that quotes the beginning of a packet.
func report(t testing.TB, from, to netip.Addr, leg Leg, quoted []byte) Frame {
	if from.Is4() {
		_, ip := network(from, to, layers.IPProtocolICMPv4)
		return serialized(t, leg, ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1400}, gopacket.Payload(quoted))
	}
	_, ip := network(from, to, layers.IPProtocolICMPv6)
	return serialized(t, leg, ip, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}, gopacket.Payload(append([]byte{0, 0, 5, 120}, quoted...)))
}

func packetOf(f Frame) []byte { return f.Data[f.IPs[0].at:f.IPs[0].end] }

func same(t *testing.T, want, got Frame) {
	t.Helper()
	for _, difference := range Differences(want, got) {
		t.Error(difference)
	}
	for _, fault := range got.Faults() {
		t.Error(fault)
	}
}

func TestPathsGiveWhatGopacketBuilds(t *testing.T) {
	for family, w := range worlds {
		// Built as it should be at the other end, TTL and all: an independent word.
		hop := func(f Frame) Frame {
			f = must(slices.Clone(f.Data))
			f.address(f.Inner().Source, f.Inner().Dest)
			copy(f.Data, backendMAC)
			copy(f.Data[6:], balancerMAC)
			f = must(f.Data)
			if !f.Inner().six {
				binary.BigEndian.PutUint16(f.Data[24:], headerSum(f.header(f.Inner())))
			}
			return f
		}
		t.Run("SNAT of TCP over "+family, func(t *testing.T) {
			same(t, hop(segment(t, w.balancer, w.backend)), Translated(segment(t, w.client, w.vip), toBackend, w.balancer, w.backend))
		})
		t.Run("SNAT of UDP over "+family, func(t *testing.T) {
			same(t, hop(datagram(t, w.balancer, w.backend, "odd")), Translated(datagram(t, w.client, w.vip, "odd"), toBackend, w.balancer, w.backend))
		})
		t.Run("an encapsulated segment over "+family, func(t *testing.T) {
			request := segment(t, w.client, w.vip)
			protocol := map[string]layers.IPProtocol{"IPv4": 4, "IPv6": 41}[family]
			_, ip := network(w.balancer.Addr(), w.backend.Addr(), protocol)
			if ip4, ok := ip.(*layers.IPv4); ok {
				ip4.Id, ip4.Flags = 0, layers.IPv4DontFragment
			}
			want := serialized(t, toBackend, ip, gopacket.Payload(packetOf(request)))
			got := Tunnelled(request, toBackend, w.balancer.Addr(), w.backend.Addr())
			same(t, want, got)
			if !got.Tunnelled() || got.Source() != w.client || got.Dest() != w.vip {
				t.Errorf("it is read as %s", got)
			}
			same(t, ByMAC(request, toBackend), Decapsulated(got))
		})
		t.Run("an echo over "+family, func(t *testing.T) {
			same(t, echo(t, w, true, toClient), EchoReply(echo(t, w, false, Leg{clientMAC, balancerMAC})))
		})
		t.Run("too big over "+family, func(t *testing.T) {
			request := datagram(t, w.client, w.vip, strings.Repeat("x", 1452))
			got := TooBig(request, 1400)
			want := report(t, w.vip.Addr(), w.client.Addr(), toClient, packetOf(request)[:68])
			if family == "IPv4" {
				copy(want.Data[14:34], header4(0, 20+8+68, 1, w.vip.Addr(), w.client.Addr()))
			} else {
				copy(want.Data[14:16], []byte{0x60, 0})
			}
			same(t, must(want.Data), got)
		})
		t.Run("a translated error over "+family, func(t *testing.T) {
			// The backend's router about what the balancer sent in the client's name.
			for name, build := range map[string]func(from, to netip.AddrPort) []byte{
				"TCP, 8 bytes": func(from, to netip.AddrPort) []byte {
					f := segment(t, from, to)
					return packetOf(f)[:f.transport-14+8]
				},
				"TCP, all":   func(from, to netip.AddrPort) []byte { return packetOf(segment(t, from, to)) },
				"UDP, whole": func(from, to netip.AddrPort) []byte { return packetOf(datagram(t, from, to, "data")) },
			} {
				t.Run(name, func(t *testing.T) {
					in := report(t, w.backend.Addr(), w.balancer.Addr(), Leg{backendMAC, balancerMAC}, build(w.balancer, w.backend))
					want := report(t, w.vip.Addr(), w.client.Addr(), toClient, build(w.client, w.vip))
					want.address(w.vip.Addr(), w.client.Addr())
					if family == "IPv4" {
						binary.BigEndian.PutUint16(want.Data[24:], headerSum(want.header(want.Inner())))
					}
					same(t, must(want.Data), TranslatedError(in, toClient, w.client, w.vip))
				})
			}
		})
	}
}

func TestTranslationRepairsNothing(t *testing.T) {
	for family, w := range worlds {
		t.Run("a wrong checksum over "+family+" is as wrong as before", func(t *testing.T) {
			bad := segment(t, w.client, w.vip)
			bad.Data[bad.transport+16] ^= 0x5a
			after := Translated(bad, toBackend, w.balancer, w.backend)
			if len(after.Faults()) != 1 {
				t.Errorf("faults %q, want one", after.Faults())
			}
			back := Translated(after, toClient, w.client, w.vip)
			if !slices.Equal(back.Data[back.transport:], bad.Data[bad.transport:]) {
				t.Error("it is not the same after the way back")
			}
		})
	}
	t.Run("a UDP checksum of 0 stays 0", func(t *testing.T) {
		w := worlds["IPv4"]
		none := datagram(t, w.client, w.vip, "none")
		copy(none.Data[none.transport+6:], []byte{0, 0})
		after := Translated(none, toBackend, w.balancer, w.backend)
		if binary.BigEndian.Uint16(after.Data[after.transport+6:]) != 0 || after.Faults() != nil {
			t.Errorf("%x, %q", after.Data[after.transport:], after.Faults())
		}
	})
	t.Run("a UDP checksum that comes to 0 is 0xffff", func(t *testing.T) {
		w := worlds["IPv4"]
		for n := range 1 << 16 {
			f := datagram(t, w.client, w.vip, string([]byte{byte(n >> 8), byte(n)}))
			after := Translated(f, toBackend, w.balancer, w.backend)
			if binary.BigEndian.Uint16(after.Data[after.transport+6:]) == 0xffff {
				return
			}
			if binary.BigEndian.Uint16(after.Data[after.transport+6:]) == 0 {
				t.Fatal("a computed 0 was written")
			}
		}
		t.Error("no payload came to it")
	})
}

func TestAnMSSIsClampedAndNeverRaised(t *testing.T) {
	f := segment(t, worlds["IPv4"].client, worlds["IPv4"].vip)
	if got := MSS(Clamped(f, 1200)); got != 1200 || MSS(f) != 1460 {
		t.Errorf("%d of %d", got, MSS(f))
	}
	if faults := Clamped(f, 1200).Faults(); faults != nil {
		t.Error(faults)
	}
	if got := MSS(Clamped(f, 9000)); got != 1460 {
		t.Errorf("raised to %d", got)
	}
}

func TestAFirstFragmentsChecksumMovesWithItsPorts(t *testing.T) {
	w := worlds["IPv4"]
	whole := datagram(t, w.client, w.vip, strings.Repeat("0123456789abcdef", 3))
	split := func(f Frame) (first, second Frame) {
		a, b := slices.Clone(f.Data[:34+24]), slices.Concat(f.Data[:34], f.Data[34+24:])
		a[17], b[17] = 20+24, byte(20+len(b)-34)
		a[20], b[21] = 0x20, 3
		for _, x := range [][]byte{a, b} {
			binary.BigEndian.PutUint16(x[24:], headerSum(x[14:34]))
		}
		return must(a), must(b)
	}
	first, second := split(whole)
	wantFirst, wantSecond := split(Translated(whole, toBackend, w.balancer, w.backend))
	if second.Source().Port() != 0 || !second.Inner().Fragment() {
		t.Errorf("a later fragment is %s", second)
	}
	same(t, wantFirst, Translated(first, toBackend, w.balancer, w.backend))
	same(t, wantSecond, Translated(second, toBackend, w.balancer, w.backend))
}

// Each field of each header is broken once: the difference must be named, and no other one.
func TestDifferencesNameTheFieldThatWasBroken(t *testing.T) {
	for family, w := range worlds {
		request := segment(t, w.client, w.vip)
		frames := map[string]Frame{
			"a TCP segment":       request,
			"a datagram":          datagram(t, w.client, w.vip, "data"),
			"an encapsulated one": Tunnelled(request, toBackend, w.balancer.Addr(), w.backend.Addr()),
			"an echo":             echo(t, w, false, toClient),
			"an error":            report(t, w.backend.Addr(), w.balancer.Addr(), toClient, packetOf(request)),
		}
		for name, frame := range frames {
			t.Run(name+" over "+family, func(t *testing.T) { breakEach(t, frame) })
		}
	}
}

func breakEach(t *testing.T, frame Frame) {
	offset, broken := 0, 0
	for _, l := range frame.layers() {
		for _, f := range l.fields {
			if (f.from+f.bits+7)/8 > len(l.bytes) {
				continue
			}
			data := slices.Clone(frame.Data)
			bit := offset*8 + f.from + f.bits - 1 // the field's last one
			data[bit/8] ^= 1 << (7 - bit%8)
			got, err := Read(data)
			if err != nil || !slices.Equal(layout(got), layout(frame)) {
				continue // another kind of frame; that is the next test's
			}
			broken++
			want := l.name + ": " + f.name + " is "
			found := Differences(frame, got)
			if len(found) != 1 || !strings.HasPrefix(found[0], want) {
				t.Errorf("with another %s of the %s: %q", f.name, l.name, found)
			}
			if len(Match([]Frame{frame}, []Frame{got})) != 1 {
				t.Errorf("Match takes another %s of the %s for the same", f.name, l.name)
			}
		}
		offset += len(l.bytes)
	}
	if broken < 10 {
		t.Errorf("only %d fields were broken", broken)
	}
}

func layout(f Frame) (names []string) {
	for _, l := range f.layers() {
		names = append(names, l.name, string(rune(len(l.bytes))))
	}
	return names
}

func TestMatchNamesWhatIsMissingAndWhatIsTooMuch(t *testing.T) {
	w := worlds["IPv4"]
	a, b := datagram(t, w.client, w.vip, "a"), datagram(t, w.client, w.vip, "b")
	for name, c := range map[string]struct {
		expected, seen []Frame
		want           []string
	}{
		"the same in another order":     {[]Frame{a, b}, []Frame{b, a}, nil},
		"one is lost":                   {[]Frame{a, b}, []Frame{b}, []string{"did not come"}},
		"one comes twice":               {[]Frame{a}, []Frame{a, a}, []string{"should not have"}},
		"one comes, and should not":     {nil, []Frame{a}, []string{"should not have"}},
		"another one comes, and is not": {[]Frame{a}, []Frame{b}, []string{"payload: bytes differ"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Match(c.expected, c.seen)
			if len(got) != len(c.want) {
				t.Fatalf("%q, want %q", got, c.want)
			}
			for i := range got {
				if !strings.Contains(got[i], c.want[i]) {
					t.Errorf("%q, want %q", got[i], c.want[i])
				}
			}
		})
	}
}

func TestFaultsNameEachWrongChecksum(t *testing.T) {
	for family, w := range worlds {
		for name, f := range map[string]Frame{"TCP": segment(t, w.client, w.vip), "UDP": datagram(t, w.client, w.vip, "x"), "ICMP": echo(t, w, false, toClient)} {
			if faults := f.Faults(); faults != nil {
				t.Errorf("%s over %s: %q of a right one", name, family, faults)
			}
			at, _, _ := f.covered()
			f.Data[at] ^= 1
			if faults := f.Faults(); len(faults) != 1 || !strings.HasPrefix(faults[0], name) {
				t.Errorf("%s over %s: %q", name, family, faults)
			}
		}
	}
	f := Tunnelled(segment(t, worlds["IPv4"].client, worlds["IPv4"].vip), toBackend, worlds["IPv4"].balancer.Addr(), worlds["IPv4"].backend.Addr())
	f.Data[24] ^= 1
	if faults := f.Faults(); len(faults) != 1 || !strings.HasPrefix(faults[0], "outer IPv4 header") {
		t.Errorf("%q", faults)
	}
}

func TestWhatLiesCannotBeRead(t *testing.T) {
	w := worlds["IPv4"]
	for name, change := range map[string]func(d []byte) []byte{
		"a header length of 4 words":     func(d []byte) []byte { d[14] = 0x44; return d },
		"a total length beyond the end":  func(d []byte) []byte { d[17]++; return d },
		"a total length of 0":            func(d []byte) []byte { d[16], d[17] = 0, 0; return d },
		"a TCP header beyond the packet": func(d []byte) []byte { d[46] = 0xf0; return d },
		"a TCP header of 4 words":        func(d []byte) []byte { d[46] = 0x40; return d },
		"a header cut short":             func(d []byte) []byte { return d[:30] },
	} {
		if f, err := Read(change(segment(t, w.client, w.vip).Data)); err == nil {
			t.Errorf("%s: it is read as %s", name, f)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, w := range worlds {
		request := segment(f, w.client, w.vip)
		for _, seed := range []Frame{
			request, datagram(f, w.client, w.vip, "data"), echo(f, w, false, toClient),
			Tunnelled(request, toBackend, w.balancer.Addr(), w.backend.Addr()),
			report(f, w.backend.Addr(), w.balancer.Addr(), toClient, packetOf(request)),
		} {
			f.Add(seed.Data, seed.Data[:20])
			changed := slices.Clone(seed.Data)
			changed[len(changed)-1] ^= 1
			f.Add(changed, seed.Data)
		}
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, failed := Read(a)
		if failed != nil {
			return
		}
		_, _ = x.String(), x.Faults()
		if Differences(x, x) != nil {
			t.Error("a frame differs from itself")
		}
		var whole []byte
		for _, l := range x.layers() {
			whole = append(whole, l.bytes...)
		}
		if !slices.Equal(whole, a) {
			t.Errorf("the layers are %x, the frame %x", whole, a)
		}
		if y, err := Read(b); err == nil && !slices.Equal(a, b) && Differences(x, y) == nil {
			t.Error("two frames do not differ")
		}
		if !x.IsIP() || x.VLAN || len(a) > 60000 {
			return
		}
		w := worlds["IPv4"]
		if x.IPs[0].six {
			w = worlds["IPv6"]
		}
		_, _, _, _ = MSS(x), Clamped(x, 100), x.TTL(), x.Payload()
		tunnelled := Tunnelled(x, toBackend, w.balancer.Addr(), w.backend.Addr())
		if !slices.Equal(packetOf(ByMAC(x, toBackend)), packetOf(Decapsulated(Frame{Data: tunnelled.Data, IPs: tunnelled.IPs[:2]}))) {
			t.Error("decapsulated, the packet is another one")
		}
		if !x.Tunnelled() {
			Translated(x, toBackend, w.balancer, w.backend)
			if IsError(x) {
				TranslatedError(x, toBackend, w.client, w.vip)
			}
		}
	})
}
