package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
)

// traffic is a random sequence of frames to a balancer of all kinds of services: what
// clients, backends and routers send, some of it broken, while the agent changes
// backends and the tables lose entries. That both systems do the same with it is
// what send checks.
type randomTraffic struct {
	b      *balancer
	random *rand.Rand
	sent   []packet // clients' packets
	got    [][]byte // frames that left
}

// longAgo is beyond the lifetimes of random traffic, and longer than that takes.
const longAgo = 200 * time.Second

func newRandomTraffic(t testing.TB, source rand.Source) *randomTraffic {
	t.Helper()
	b := newBalancer(t)
	for i, v := range []netip.Addr{vip, vip6} {
		slot, id := uint32(4*i), uint32(3+8*i)
		at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(v, port) }
		b.serve(slot, at(80), uint8(tcp), LBLbModeLB_MODE_DSR, 251, id, id+1)
		b.serve(slot+1, at(53), uint8(udp), LBLbModeLB_MODE_SNAT, 251, id+2, id+3)
		b.serve(slot+2, at(443), uint8(tcp), LBLbModeLB_MODE_SNAT, 251, id+4)
		b.serve(slot+3, at(0), uint8(udp), LBLbModeLB_MODE_DSR, 251, id+5, id+6)
		b.changeBackend(id+1, func(e *LBBackend) { e.Encap = LBLbEncapLB_ENCAP_L2 })
		b.changeBackend(id, func(e *LBBackend) { e.OuterSpread = 0xff000000 })
		b.changeBackend(id+6, func(e *LBBackend) { e.Port = 0 })
		b.changeService(at(443), uint8(tcp), func(s *LBService) { s.Mss = 1000 })
		b.changeService(at(53), uint8(udp), func(s *LBService) {
			s.Flags, s.AffinityNs = LBServiceFlagSERVICE_AFFINITY, uint64(time.Minute)
		})
		b.changeService(at(0), uint8(udp), func(s *LBService) {
			s.Flags = LBServiceFlagSERVICE_RANDOM | LBServiceFlagSERVICE_RANGES
		})
	}
	b.allow(3, "20.1.1.0/26")
	b.allow(7, "fd20::/122")
	b.configure(func(c *LBLbConfig) {
		c.NatMin, c.NatMax, c.EventRate = 40000, 40015, 1<<31
		// Nothing ends by itself meanwhile: at that instant the systems could differ.
		c.TcpSynNs, c.TcpEstablishedNs, c.TcpClosingNs = uint64(longAgo/2), uint64(longAgo/2), uint64(longAgo/2)
		c.NonTcpNs, c.FragmentNs = uint64(longAgo/2), uint64(longAgo/2)
	})
	return &randomTraffic{b: b, random: rand.New(source)}
}

func (r *randomTraffic) one(in int) bool { return r.random.IntN(in) == 0 }

func pick[T any](r *randomTraffic, of ...T) T { return of[r.random.IntN(len(of))] }

// step makes a frame and sends it.
func (r *randomTraffic) step() (verdict uint32) {
	r.b.t.Helper()
	if r.one(20) {
		r.disturb()
	}
	frame := r.frame()
	if r.one(3) {
		frame = mutate(r.random, frame)
	}
	if r.one(30) && len(frame) > 14 {
		tag := pick(r, []byte{0x81, 0, 0, 7}, []byte{0x88, 0xa8, 0, 7})
		frame = slices.Insert(slices.Clone(frame), 12, tag...)
	}
	verdict, out := r.b.send(frame)
	if verdict == xdpTX {
		r.got = append(r.got, out)
		r.got = r.got[max(0, len(r.got)-64):]
	}
	return verdict
}

func (r *randomTraffic) frame() []byte {
	t := r.b.t
	if len(r.sent) == 0 || len(r.got) == 0 {
		return r.request().frame(t)
	}
	switch r.random.IntN(10) {
	case 0, 1, 2:
		return r.request().frame(t)
	case 3, 4:
		return r.again().frame(t)
	case 5, 6:
		return r.reply(pick(r, r.got...))
	case 7:
		return r.fragment().frame(t)
	case 8:
		return r.report().frame(t)
	}
	payload := make([]byte, r.random.IntN(64))
	if r.one(2) {
		return ping6(string(payload)).frame(t)
	}
	return ping(string(payload)).frame(t)
}

// request is a packet of some client, which may be one of the backends.
func (r *randomTraffic) request() packet {
	p := request(pick[uint16](r, 1000, 1001, 40000, 40001, 40062, 50000), pick(r, "S", "S", "A", "PA", "FA", "R"))
	p.to = netip.AddrPortFrom(vip, pick[uint16](r, 80, 443, 443, 81))
	if r.one(2) {
		p.proto, p.flags = udp, ""
		p.to = netip.AddrPortFrom(vip, pick[uint16](r, 53, 53, 5353))
		p.unsummed = r.one(4)
	}
	p.payload = make([]byte, pick(r, 0, 1, 7, 100, 100, 1392, 1440, 1460))
	p.from = netip.AddrPortFrom(netip.AddrFrom4([4]byte{20, 1, 1, byte(r.random.IntN(100))}), p.from.Port())
	p.ttl, p.tos = pick[uint8](r, 64, 64, 64, 255, 2, 1), uint8(r.random.Uint32())
	p.sourceMAC = pick(r, routerMAC, routerMAC, routerMAC, otherMAC)
	if r.one(2) {
		p.fragment = layers.IPv4DontFragment
	}
	if p.flags == "S" {
		p.payload, p.tcpOpts = nil, []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}}
	}
	if r.one(20) {
		p.from = netip.AddrPortFrom(backendAddress(uint32(3+r.random.IntN(8))), p.from.Port())
	}
	switch {
	case r.one(2):
		source := client6.As16()
		source[15] = byte(r.random.IntN(100))
		p = overIPv6(p)
		p.from = netip.AddrPortFrom(netip.AddrFrom16(source), p.from.Port())
		p.label, p.fragment = r.random.Uint32N(1<<20), 0
		for range r.random.IntN(8) - 3 {
			p.extensions = append(p.extensions, pick(r,
				padded(hopByHopHeader, 8), padded(destinationHeader, 24), padded(destinationHeader, 264),
				padded(routingHeader, 8), fragment6(0, false, 1)))
		}
	case r.one(5):
		p.options = timestampOption(1 + r.random.IntN(10))
	}
	r.sent = append(r.sent, p)
	r.sent = r.sent[max(0, len(r.sent)-32):]
	return p
}

// again is another packet of a flow that there may be.
func (r *randomTraffic) again() packet {
	p := pick(r, r.sent...)
	p.tcpOpts = nil
	if p.proto == tcp {
		p.flags = pick(r, "A", "A", "PA", "FA", "S", "SA", "R")
	}
	return p
}

// reply turns a frame that left around, with new checksums where it has a simple header.
func (r *randomTraffic) reply(frame []byte) []byte {
	if !isTransport(frame) {
		return frame // an encapsulated one: it comes back to us
	}
	p, _ := r.parsed(frame)
	p.sourceMAC, p.destMAC = p.destMAC, p.sourceMAC
	p.from, p.to = p.to, p.from
	p.payload = make([]byte, pick(r, 0, 5, 100, 1440))
	if p.proto == tcp {
		p.flags = pick(r, "SA", "A", "PA", "FA", "R")
	}
	return p.frame(r.b.t)
}

// isTransport says whether TCP or UDP is behind a frame's IP header.
func isTransport(frame []byte) bool {
	if ipLength(frame)+14 > uint64(len(frame)) || frame[20]&0x3f != 0 && frame[12] == 8 {
		return false
	}
	at := map[byte]int{8: 23, 0x86: 20}[frame[12]]
	return (frame[at] == 6 || frame[at] == 17) && len(frame) >= l4Offset(frame)+8
}

// parsed reads what of a frame a reply to it needs.
func (r *randomTraffic) parsed(frame []byte) (p packet, at int) {
	proto, at := transportOf(frame[14:])
	p = packet{sourceMAC: frame[6:12], destMAC: frame[0:6], proto: layers.IPProtocol(proto), ttl: 60}
	from, to := frame[26:30], frame[30:34]
	if frame[14]>>4 == 6 {
		from, to = frame[22:38], frame[38:54]
	}
	port := func(address []byte, at int) netip.AddrPort {
		a, _ := netip.AddrFromSlice(address)
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(frame[at:]))
	}
	p.from, p.to = port(from, 14+at), port(to, 14+at+2)
	return p, at
}

// fragment is one of a packet that was or was not cut before.
func (r *randomTraffic) fragment() packet {
	p := r.again()
	p.extensions, p.payload = nil, make([]byte, 64)
	id, more, offset := uint16(r.random.IntN(3)), r.one(2), r.random.IntN(3)*4
	whole := p.frame(r.b.t)
	if offset > 0 || r.one(4) {
		p.raw, p.payload = true, whole[l4Offset(whole):][:32]
	}
	if p.from.Addr().Is6() {
		p.extensions = []extension{fragment6(uint16(offset), more, uint32(id))}
		return p
	}
	p.id, p.offset, p.fragment = id, uint16(offset), 0
	if more {
		p.fragment = layers.IPv4MoreFragments
	}
	return p
}

// report is an ICMP error about a frame that left or about a reply of DSR.
func (r *randomTraffic) report() packet {
	about := pick(r, r.got...)
	if r.one(2) || !isTransport(about) {
		p := backwards(r.again())
		p.extensions = nil
		about = p.frame(r.b.t)
	}
	s := sides[0]
	if about[14]>>4 == 6 {
		s = sides[1]
	}
	p, at := r.parsed(about)
	quote := about[14:][:min(at+pick(r, 7, 8, 18, 20, 100), int(ipLength(about)))]
	kinds := s.kinds()
	m := message(s.far, p.from.Addr(), kinds[r.random.IntN(len(kinds))], quote)
	m.ttl = pick[uint8](r, 64, 64, 2, 1)
	if r.one(4) {
		m.padding = make([]byte, r.random.IntN(20))
	}
	return m
}

// disturb changes what the balancer knows.
func (r *randomTraffic) disturb() {
	b, o := r.b, r.b.objects
	tables := []*ebpf.Map{
		o.Flows4, o.Flows6, o.NewFlows4, o.NewFlows6, o.Nat4, o.Nat6, o.NewNat4, o.NewNat6, o.Affinities, o.Fragments,
	}
	id := uint32(3 + r.random.IntN(14))
	switch r.random.IntN(6) {
	case 0, 1: // an entry is lost
		m := pick(r, tables...)
		if key, err := m.NextKeyBytes(nil); err == nil && key != nil {
			must(b.t, m.Delete(key))
		}
	case 2, 3: // a flow grows old
		m := pick(r, tables[:4]...)
		if key, err := m.NextKeyBytes(nil); err == nil && key != nil {
			var e LBCtEntry
			must(b.t, m.Lookup(key, &e))
			if e.LastSeenNs < uint64(longAgo) {
				return // the machine has only just started
			}
			e.LastSeenNs -= uint64(longAgo)
			e.WayBackNs = min(e.WayBackNs, e.LastSeenNs)
			must(b.t, m.Put(key, e))
		}
	case 4:
		if (id-3)%8 < 5 { // not those of the random services
			b.changeBackend(id, func(e *LBBackend) {
				e.MacSlot = pick[uint8](r, 0, 0, 0, 2)
				e.State = pick(r, LBBackendStateBACKEND_ACTIVE, LBBackendStateBACKEND_ACTIVE, LBBackendStateBACKEND_ACTIVE,
					LBBackendStateBACKEND_DRAINING, LBBackendStateBACKEND_GONE)
			})
		}
	case 5:
		mtu, vlan := pick[uint32](r, 1500, 1500, 1400), pick(r, LBVlanPolicyVLAN_PASS, LBVlanPolicyVLAN_DROP)
		b.configure(func(c *LBLbConfig) { c.Mtu, c.Vlan = mtu, vlan })
	}
}

func TestBothSystemsDoTheSameWithRandomTraffic(t *testing.T) {
	const frames = 3000
	r := newRandomTraffic(t, rand.NewPCG(11, 12))
	verdicts := map[uint32]int{}
	for range frames {
		verdicts[r.step()]++
	}
	got := r.b.counters()
	t.Logf("verdicts %v, drops %v, ICMP %v", verdicts, got.drops, got.icmp)
	for verdict, name := range map[uint32]string{xdpPass: "passed", xdpDrop: "were dropped", xdpTX: "left"} {
		if verdicts[verdict] < frames/20 {
			t.Errorf("only %d of %d frames %s: the traffic tests too little", verdicts[verdict], frames, name)
		}
	}
	rare := []string{"no_stage", "adjust_head", "conntrack_failed", "no_neighbour"}
	for _, reason := range r.b.reasons[1:] {
		if got.drops[reason] == 0 && !slices.Contains(rare, reason) {
			t.Errorf("nothing was dropped for %s: the traffic tests too little", reason)
		}
	}
	for deed := range LBIcmpDeedICMP_DEED_MAX {
		if got.icmp[deed] == 0 {
			t.Errorf("deed %d of ICMP was never done: the traffic tests too little", deed)
		}
	}
}

// bytesSource makes random numbers of a fuzzer's bytes, and a fixed sequence behind
// their end: math/rand draws again until a number suits it.
type bytesSource struct {
	left  []byte
	drawn uint64
}

func (s *bytesSource) Uint64() uint64 {
	s.drawn++
	n := s.drawn * 0x9e3779b97f4a7c15
	if len(s.left) > 0 {
		n = uint64(s.left[0])<<56 | uint64(s.left[0])<<24 | n&0xffffff00ffffff
		s.left = s.left[1:]
	}
	return n
}

// FuzzTraffic compares both systems on sequences of packets that a fuzzer chooses:
//
//	go test -run '^$' -fuzz FuzzTraffic ./bpf
func FuzzTraffic(f *testing.F) {
	for seed := range uint64(8) {
		bytes := make([]byte, 1024)
		_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(bytes)
		f.Add(bytes)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		source := &bytesSource{left: choices}
		r := newRandomTraffic(t, source)
		for len(source.left) > 0 {
			r.step()
		}
	})
}
