package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// fuzzed is a balancer of a service of each kind, with ports for eight flows of
// each backend, so that some frames find none.
func fuzzed(t testing.TB) *balancer {
	t.Helper()
	b := newBalancer(t)
	tls := netip.AddrPortFrom(vip, 443)
	b.serve(0, web, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 3)
	b.serve(1, dns, uint8(udp), LBLbModeLB_MODE_SNAT, 251, 4)
	b.serve(2, tls, uint8(tcp), LBLbModeLB_MODE_SNAT, 251, 5)
	b.changeService(tls, 6, func(s *LBService) { s.Mss = 1000 })
	b.serve(3, netip.AddrPortFrom(vip, 0), uint8(udp), LBLbModeLB_MODE_DSR, 251, 6)
	b.configure(func(c *LBLbConfig) { c.NatMin, c.NatMax = 40000, 40007 })
	return b
}

// fuzzSeeds are frames of every kind that the balancer knows, an order in which they
// make sense to it.
func fuzzSeeds(t testing.TB) (frames [][]byte) {
	t.Helper()
	tls := request(40000, "PA")
	tls.to, tls.payload = netip.AddrPortFrom(vip, 443), []byte("hello, world; long enough to be quoted whole")
	syn := tls
	syn.flags, syn.payload = "S", nil
	large := sized(t, 1490, func(*packet) {})
	many := datagram(40005, "")
	many.to, many.payload = netip.AddrPortFrom(vip, 5353), make([]byte, 80)
	reply := answer(5, 40000, 6, "PA")
	reply.payload = make([]byte, 80)
	hairpin := request(40001, "S")
	hairpin.from = netip.AddrPortFrom(backendAddress(3), 40001)
	packets := []packet{
		request(40000, "S"), request(40000, "A"), request(40001, "FA"), request(40000, "R"), large, hairpin,
		datagram(40002, "query"), changed(datagram(40002, "query"), func(p *packet) { p.unsummed = true }), many,
		tls, tls, changed(tls, func(p *packet) { p.options = ipOptions(2) }), changed(tls, func(p *packet) { p.ttl = 2 }),
		reply, answer(4, 40002, uint8(udp), ""), answer(5, 40000, 6, "FA"),
		ping("abcdefgh"), changed(ping("abc"), func(p *packet) { p.options = ipOptions(2) }),
		message(client, vip, icmpHeader{kind: 3, code: 4, rest: 1300}, quoted(t, backwards(request(40000, "")), 8)),
		message(client, vip, icmpHeader{kind: 3, code: 4, rest: 1300}, quoted(t, backwards(tls), 30)),
		message(backendAddress(5), lbAddress, icmpHeader{kind: 11}, quoted(t, backwards(reply), 8)),
		message(backendAddress(4), lbAddress, icmpHeader{kind: 3, code: 3}, quoted(t, backwards(answer(4, 40002, uint8(udp), "")), 8)),
		overIPv6(request(40000, "S")), overIPv6(ping("abcdefgh")),
	}
	frames = append(frames, withTCPOptions(t, syn, 4, 2, 1, 2, 4, 5, 180, 0))
	for _, p := range packets {
		frames = append(frames, p.frame(t))
	}
	for _, p := range []packet{tls, many, reply} {
		frames = append(frames, split(p.frame(t), 24, 24)...)
	}
	return frames
}

// judged sends a frame, of which send checks the counters, and says what is wrong with
// what came out.
func (b *balancer) judged(in []byte) (verdict uint32, fault error) {
	b.t.Helper()
	knownFirst := true
	if len(in) >= 34 && in[20]&0x1f|in[21] != 0 {
		_, err := b.objects.Fragments.LookupBytes(fragmentKey(in))
		knownFirst = err == nil
	}
	before := b.counters().icmp
	verdict, out := b.send(in)
	if verdict != xdpTX {
		return verdict, nil
	}
	after := b.counters().icmp
	deed := LBIcmpDeedICMP_DEED_MAX
	for d := range LBIcmpDeedICMP_DEED_MAX {
		if after[d] != before[d] {
			deed = d
		}
	}
	header, _, err := ip4Header(in)
	switch {
	case err != nil:
		return verdict, err
	case deed == LBIcmpDeedICMP_ECHO_ANSWERED:
		if in[14+header] != 8 || !bytes.Equal(in[30:34], vip.AsSlice()) {
			return verdict, errors.New("answered what is no echo request to the VIP")
		}
		return verdict, echo(in, out)
	case deed == LBIcmpDeedICMP_TOO_BIG_SENT:
		if in[20]&0x40 == 0 {
			return verdict, errors.New("told the client of a packet that may be fragmented")
		}
		equalFrames(b.t, out, tooBig(b.t, in, 1480))
		return verdict, nil
	case !knownFirst:
		return verdict, errors.New("forwarded a fragment whose first one never came")
	}
	if err := forwardable(in); err != nil {
		return verdict, err
	}
	if len(out) == len(in)+20 {
		return verdict, encapsulation(in, out)
	}
	return verdict, translation(in, out)
}

// fragmentKey is the key in `fragments` of an IPv4 frame.
func fragmentKey(frame []byte) []byte {
	key := make([]byte, binary.Size(LBFragmentKey{}))
	copy(key[0:4], frame[26:30])
	copy(key[16:20], frame[30:34])
	copy(key[32:34], frame[18:20])
	key[36], key[37] = frame[23], 4
	return key
}

// mutate changes a frame at random, mostly in its headers.
func mutate(random *rand.Rand, frame []byte) []byte {
	frame = bytes.Clone(frame)
	for range random.IntN(4) {
		at := random.IntN(min(len(frame), 60))
		switch random.IntN(3) {
		case 0:
			frame[at] = byte(random.Uint32())
		case 1:
			frame[at] ^= 1 << random.IntN(8)
		case 2:
			frame[at] = []byte{0, 1, 0x44, 0x45, 0x4f, 0x7f, 0xff}[random.IntN(7)]
		}
	}
	switch random.IntN(6) {
	case 0:
		frame = frame[:14+random.IntN(len(frame)-13)]
	case 1:
		frame = append(frame, make([]byte, random.IntN(40))...)
	}
	return frame
}

func TestNoMutatedFrameIsForwardedUnlessWellFormed(t *testing.T) {
	const frames = 2000
	b := fuzzed(t)
	seeds := fuzzSeeds(t)
	for i, seed := range seeds {
		if _, err := b.judged(seed); err != nil {
			t.Fatalf("seed %d: %v", i, err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	verdicts := map[uint32]int{}
	for range frames {
		in := mutate(random, seeds[random.IntN(len(seeds))])
		verdict, err := b.judged(in)
		if err != nil {
			t.Fatalf("%v: %x", err, in)
		}
		verdicts[verdict]++
	}
	for verdict, name := range map[uint32]string{xdpPass: "passed", xdpDrop: "were dropped", xdpTX: "left"} {
		if verdicts[verdict] < frames/50 {
			t.Errorf("only %d of %d frames %s: the mutations test too little", verdicts[verdict], frames, name)
		}
	}
	got := b.counters()
	for deed := range LBIcmpDeedICMP_DEED_MAX {
		if got.icmp[deed] == 0 {
			t.Errorf("deed %d of ICMP was never done: the mutations test too little", deed)
		}
	}
	t.Logf("pass %d, drop %d, tx %d; drops %v, ICMP %v", verdicts[xdpPass], verdicts[xdpDrop], verdicts[xdpTX], got.drops, got.icmp)
}

// FuzzFrame sends any frame to a balancer whose tables hold what came before it:
//
//	go test -run '^$' -fuzz FuzzFrame ./bpf
//
// Flows of the seeds are opened before each frame, so that a frame found to be wrong
// is so in a process of its own, too.
func FuzzFrame(f *testing.F) {
	b := fuzzed(f)
	seeds := fuzzSeeds(f)
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		// The kernel runs a program on no shorter frame, and on none beyond a page.
		if len(frame) < 14 || len(frame) > 2000 {
			t.Skip()
		}
		b.t = t
		b.forgetFlows()
		clearHash(t, b.objects.Nat4)
		clearHash(t, b.objects.NewNat4)
		for _, seed := range seeds[:12] {
			_, _, err := b.objects.Lb.Test(seed)
			must(t, err)
		}
		if _, err := b.judged(frame); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNoRandomFrameUpsetsTheDecapsulation(t *testing.T) {
	each(t, func(t *testing.T, d *decapsulator) {
		random := rand.New(rand.NewPCG(3, 4))
		seed := tunnelled(t, inner(t, "0123456789012345"), nil)
		var counted uint64
		for range 3000 {
			in := mutate(random, seed)
			if len(in) < 64 {
				continue
			}
			verdict, out := d.test(in)
			counted++
			switch {
			case verdict == d.drops, bytes.Equal(out, in):
			case verdict == d.passes && len(out) == len(in)-20 && bytes.Equal(out[14:], in[34:]):
				if in[23] != 4 || !bytes.Equal(in[30:34], seed[30:34]) || !bytes.Equal(in[26:30], seed[26:30]) {
					t.Fatalf("a frame was stripped that is not for this backend: %x", in)
				}
			default:
				t.Fatalf("verdict %d\nin  %x\nout %x", verdict, in, out)
			}
		}
		got := d.traffic()
		if sum := got.DecapsulatedPackets + got.PassedPackets + got.MalformedPackets; sum != counted {
			t.Errorf("%d frames, counted %+v", counted, got)
		}
		if got.DecapsulatedPackets == 0 || got.PassedPackets == 0 || got.MalformedPackets == 0 {
			t.Errorf("the mutations test too little: %+v", got)
		}
	})
}
