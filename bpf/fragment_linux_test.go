package bpf

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

// split cuts a frame's IPv4 packet into fragments of so many bytes of payload
// each; the last one takes the rest.
func split(frame []byte, sizes ...int) (fragments [][]byte) {
	header, packet := frame[14:l4Offset(frame)], frame[14:14+int(binary.BigEndian.Uint16(frame[16:]))]
	payload := packet[len(header):]
	for at, i := 0, 0; at < len(payload); i++ {
		end := len(payload)
		if i < len(sizes) {
			end = min(at+sizes[i], end)
		}
		f := append(append([]byte(nil), frame[:14]...), header...)
		f = append(f, payload[at:end]...)
		fragments = append(fragments, refragment(f, at, end < len(payload)))
		at = end
	}
	return fragments
}

// refragment makes a frame say that it is the fragment at an offset in bytes.
func refragment(frame []byte, offset int, more bool) []byte {
	word := binary.BigEndian.Uint16(frame[20:])&0x4000 | uint16(offset/8)
	if more {
		word |= 0x2000
	}
	binary.BigEndian.PutUint16(frame[20:], word)
	binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14))
	return resumIP(frame)
}

// resumIP makes an IPv4 header's checksum right.
func resumIP(frame []byte) []byte {
	frame[24], frame[25] = 0, 0
	binary.BigEndian.PutUint16(frame[24:], ^uint16(sumWords(frame[14:l4Offset(frame)], 0)))
	return frame
}

// forwardFrame sends a frame that must leave.
func (b *balancer) forwardFrame(frame []byte) []byte {
	b.t.Helper()
	verdict, out := b.send(frame)
	if verdict != xdpTX {
		b.t.Fatalf("verdict %d, want XDP_TX; drops %v", verdict, b.counters().drops)
	}
	return out
}

// long are a segment and a datagram to cut.
func long() map[string]packet {
	segment, question := request(40000, "PA"), datagram(40000, "")
	segment.payload, question.payload = make([]byte, 300), make([]byte, 300)
	for i := range segment.payload {
		segment.payload[i], question.payload[i] = byte(i), byte(7*i)
	}
	return map[string]packet{"TCP": segment, "UDP": question}
}

func TestFragmentsFollowTheirFirstInDSR(t *testing.T) {
	for name, p := range long() {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer(t)
			m := backendMAC(3)
			fragments := split(p.frame(t), 64, 128)
			for _, f := range [][]byte{fragments[0], fragments[2], fragments[1], fragments[2]} {
				equalFrames(t, b.forwardFrame(f), encapsulated(t, f, lbMAC, m[:], lbAddress, backendAddress(3)))
			}
			b.wantFlows(1, 0)
			if got := total(b.counters().service); got.RxPackets != 4 || got.Connections != 1 {
				t.Errorf("counted %+v", got)
			}
		})
	}
}

func TestFragmentsFollowTheirFirstInSNAT(t *testing.T) {
	for name, p := range long() {
		for kind, change := range map[string]func(*packet){
			"":                        func(*packet) {},
			" of a known flow":        func(p *packet) { p.id++ },
			" with IP options":        func(p *packet) { p.options = ipOptions(2) },
			" without a UDP checksum": func(p *packet) { p.unsummed = p.proto == udp },
			" from another port":      func(p *packet) { p.from = addrPort("20.1.1.100:33000") },
			" with the smallest TTL":  func(p *packet) { p.ttl = 2 },
		} {
			t.Run(name+kind, func(t *testing.T) {
				b := snatBalancer(t)
				if kind == " of a known flow" {
					for range 2 {
						b.forward(p)
					}
				}
				p := p
				change(&p)
				want := split(translated(p, p.from.Port(), 3).frame(t), 64, 128)
				for i, f := range split(p.frame(t), 64, 128) {
					equalFrames(t, b.forwardFrame(f), want[i])
				}
				b.wantFlows(1, 1)
			})
		}
	}
}

func TestARepliesFragmentsFollowTheirFirst(t *testing.T) {
	for name, p := range long() {
		t.Run(name, func(t *testing.T) {
			b := snatBalancer(t)
			front := dns
			if p.proto == tcp {
				front = web
			}
			b.forward(p)
			reply := answer(3, 40000, uint8(p.proto), p.flags)
			reply.payload = p.payload
			fragments := split(reply.frame(t), 64, 128)
			want := split(translatedBack(reply, front, p.from).frame(t), 64, 128)
			b.pass(fragments[2]) // nobody knows whose it is
			for i, f := range fragments {
				equalFrames(t, b.forwardFrame(f), want[i])
			}
			old := fragments[1]
			old[22] = 1
			b.drop(resumIP(old), "ttl_expired")
		})
	}
}

func TestALaterFragmentNeedsItsFirst(t *testing.T) {
	for mode, make := range modes {
		t.Run(mode, func(t *testing.T) {
			b := make(t)
			fragments := split(long()["UDP"].frame(t), 64, 128)
			b.drop(fragments[1], "fragment")
			b.drop(fragments[2], "fragment")
			b.wantFlows(0, 0)
			b.forwardFrame(fragments[0])
			b.forwardFrame(fragments[1])

			other := func(change func([]byte)) []byte {
				f := append([]byte(nil), fragments[2]...)
				change(f)
				return resumIP(f)
			}
			b.drop(other(func(f []byte) { f[18]++ }), "fragment")      // another id
			b.drop(other(func(f []byte) { f[23] = 6 }), "fragment")    // another protocol
			b.drop(other(func(f []byte) { f[29]++ }), "fragment")      // another client
			b.drop(other(func(f []byte) { f[22] = 1 }), "ttl_expired") // a TTL of 1
			b.pass(other(func(f []byte) { f[33]++ }))                  // another address than the VIP

			b.ageFragments(lifeFragment + time.Second)
			b.drop(fragments[2], "fragment")
			b.forwardFrame(fragments[0])
			b.ageFragments(lifeFragment - time.Second)
			b.forwardFrame(fragments[2])
		})
	}
}

// ageFragments makes all first fragments look as if they had come that long ago.
func (b *balancer) ageFragments(by time.Duration) {
	b.t.Helper()
	for k := range dump(b.t, b.objects.Fragments) {
		var f LBFragment
		must(b.t, b.objects.Fragments.Lookup([]byte(k), &f))
		f.LastSeenNs = monotonic(b.t) - uint64(by)
		must(b.t, b.objects.Fragments.Put([]byte(k), f))
	}
}

func TestTwoPacketsFragmentsGoTheirOwnWays(t *testing.T) {
	b := snatBalancer(t)
	one, two := long()["UDP"], long()["UDP"]
	two.from, two.id = addrPort("20.1.1.100:40001"), one.id+1
	wantOne, wantTwo := split(translated(one, 40000, 3).frame(t), 64), split(translated(two, 40001, 3).frame(t), 64)
	fragmentsOne, fragmentsTwo := split(one.frame(t), 64), split(two.frame(t), 64)
	equalFrames(t, b.forwardFrame(fragmentsOne[0]), wantOne[0])
	equalFrames(t, b.forwardFrame(fragmentsTwo[0]), wantTwo[0])
	equalFrames(t, b.forwardFrame(fragmentsOne[1]), wantOne[1])
	equalFrames(t, b.forwardFrame(fragmentsTwo[1]), wantTwo[1])
	if a, c := b.entry(one), b.entry(two); a.RxPackets != 2 || c.RxPackets != 2 {
		t.Errorf("the flows count %d and %d packets, want 2 each", a.RxPackets, c.RxPackets)
	}
}

func TestFragmentsThatDeceiveAreDropped(t *testing.T) {
	segment, question := long()["TCP"].frame(t), long()["UDP"].frame(t)
	options := long()["TCP"]
	options.tcpOpts = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
	at := func(frame []byte, offset, payload int, more bool) []byte {
		f := append([]byte(nil), frame[:34]...)
		return refragment(append(f, make([]byte, payload)...), offset, more)
	}
	cases := map[string]struct {
		frame []byte
		drops bool
	}{
		"a first one of 16 bytes of TCP":                 {split(segment, 16)[0], true},
		"a first one of 8 bytes of TCP":                  {split(segment, 8)[0], true},
		"a first one that ends in the TCP options":       {split(options.frame(t), 16)[0], true},
		"a first one that ends right behind TCP options": {split(options.frame(t), 24)[0], false},
		"a first one of a UDP header alone":              {split(question, 8)[0], false},
		"a first one of no multiple of 8 bytes":          {split(question, 65)[0], true},
		"a later one inside the TCP header, at 8":        {at(segment, 8, 64, true), true},
		"a later one inside the TCP header, at 16":       {at(segment, 16, 64, true), true},
		"a later one of TCP at 24":                       {at(segment, 24, 64, true), false},
		"a later one of UDP at 8":                        {at(question, 8, 64, true), false},
		"a middle one of no multiple of 8 bytes":         {at(question, 64, 63, true), true},
		"a middle one without payload":                   {at(question, 64, 0, true), true},
		"a last one of no multiple of 8 bytes":           {at(question, 64, 63, false), false},
		"a last one that ends at 65535 bytes of packet":  {at(question, 65504, 65535-20-65504, false), false},
		"a last one that ends one byte beyond":           {at(question, 65504, 65536-20-65504, false), true},
		"a last one at the largest offset":               {at(question, 65528, 7, false), true},
		"a middle one that ends beyond":                  {at(question, 65504, 64, true), true},
	}
	for mode, make := range modes {
		for name, c := range cases {
			t.Run(mode+", "+name, func(t *testing.T) {
				b := make(t)
				for _, whole := range [][]byte{segment, question} {
					b.forwardFrame(split(whole, 64)[0])
				}
				if c.drops {
					b.drop(c.frame, "fragment")
				} else {
					b.forwardFrame(c.frame)
				}
				b.wantFlows(2, map[string]int{"DSR": 0, "SNAT": 2}[mode])
			})
		}
	}
}

func TestFragmentsWithoutAServiceDoNotGetFar(t *testing.T) {
	b := dsrBalancer(t)
	p := long()["UDP"]
	p.to = addrPort("40.1.1.1:54")
	fragments := split(p.frame(t), 64)
	b.pass(fragments[0])
	b.drop(fragments[1], "fragment") // its port is not known, so nobody's but the VIP's
	p.to = addrPort("40.1.1.2:53")
	for _, f := range split(p.frame(t), 64) {
		b.pass(f)
	}
}

func TestAFirstFragmentThatIsDroppedLeadsNone(t *testing.T) {
	b := dsrBalancer(t)
	fragments := split(long()["UDP"].frame(t), 64)
	b.changeBackend(udpBackend(3), func(e *LBBackend) { e.MacSlot = 2 })
	b.drop(fragments[0], "no_neighbour")
	b.changeBackend(udpBackend(3), func(e *LBBackend) { e.MacSlot = 0 })
	b.drop(fragments[1], "fragment")
	b.wantFlows(0, 0)
}
