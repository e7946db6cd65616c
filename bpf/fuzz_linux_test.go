package bpf

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// wellFormed is the tests' own reading of what a router may forward of a frame:
// everything that is not IPv4 with TCP or UDP counts as not.
func wellFormed(frame []byte) bool {
	if len(frame) < 34 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[14]>>4 != 4 {
		return false
	}
	header, length := int(frame[14]&15)*4, int(binary.BigEndian.Uint16(frame[16:]))
	if header < 20 || length < header || 14+length > len(frame) {
		return false
	}
	if binary.BigEndian.Uint16(frame[20:])&0x3fff != 0 || frame[22] <= 1 {
		return false
	}
	l4 := frame[14+header : 14+length]
	switch frame[23] {
	case 6:
		return len(l4) >= 20 && int(l4[12]>>4)*4 >= 20 && int(l4[12]>>4)*4 <= len(l4)
	case 17:
		return len(l4) >= 8 && int(binary.BigEndian.Uint16(l4[4:])) >= 8 && int(binary.BigEndian.Uint16(l4[4:])) <= len(l4)
	}
	return false
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
	const frames = 6000
	b := newBalancer(t)
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 3)
	b.serve(2, dns, uint8(udp), LBLbModeLB_MODE_SNAT, 251, 3)
	b.serve(3, netip.AddrPortFrom(vip, 443), uint8(tcp), LBLbModeLB_MODE_SNAT, 251, 3)
	b.configure(func(c *LBLbConfig) { c.NatMin, c.NatMax = 40000, 40007 })

	tls := request(40000, "PA")
	tls.to, tls.payload = netip.AddrPortFrom(vip, 443), []byte("hello")
	options := tls
	options.options = ipOptions(2)
	seeds := [][]byte{
		request(40000, "S").frame(t), request(40001, "FA").frame(t), datagram(40002, "query").frame(t),
		tls.frame(t), options.frame(t), answer(3, 40000, 6, "PA").frame(t), answer(3, 40002, 17, "").frame(t),
	}
	random := rand.New(rand.NewPCG(1, 2))
	verdicts := map[uint32]int{}
	for range frames {
		in := mutate(random, seeds[random.IntN(len(seeds))])
		// send checks that a frame which passes is untouched and that counters add up.
		verdict, out := b.send(in)
		verdicts[verdict]++
		if verdict != xdpTX {
			continue
		}
		if !wellFormed(in) {
			t.Fatalf("a malformed frame was forwarded:\nin  %x\nout %x", in, out)
		}
		if len(out) != len(in) {
			if len(out) != len(in)+20 || !bytes.Equal(out[34:], in[14:]) {
				t.Fatalf("encapsulation changed the packet:\nin  %x\nout %x", in, out)
			}
			continue
		}
		if (checksumFaults(in) == nil) != (checksumFaults(out) == nil) {
			t.Fatalf("translation changed whether the checksums are right:\nin  %x (%v)\nout %x (%v)",
				in, checksumFaults(in), out, checksumFaults(out))
		}
		if !wellFormed(out) && out[22] != 1 {
			t.Fatalf("translation broke the packet:\nin  %x\nout %x", in, out)
		}
	}
	for verdict, name := range map[uint32]string{xdpPass: "passed", xdpDrop: "were dropped", xdpTX: "left"} {
		if verdicts[verdict] < frames/50 {
			t.Errorf("only %d of %d frames %s: the mutations test too little", verdicts[verdict], frames, name)
		}
	}
	t.Logf("pass %d, drop %d, tx %d; drops %v", verdicts[xdpPass], verdicts[xdpDrop], verdicts[xdpTX], b.counters().drops)
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
			verdict, out, err := d.program.Test(in)
			must(t, err)
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
