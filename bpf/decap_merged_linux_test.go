package bpf

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// forget sets the counters to 0.
func (d *decapsulator) forget() {
	d.t.Helper()
	must(d.t, d.stats.Put(uint32(0), make([]DecapTCDecapTraffic, ebpf.MustPossibleCPU())))
}

// merge is what receive offload makes of segments with these payloads: one packet that
// holds them all. bytes is the sum of the segments' IP lengths.
func merge(t testing.TB, p packet, payloads ...int) (merged []byte, bytes uint64) {
	t.Helper()
	of := func(n int) []byte {
		q := p
		q.payload = []byte(strings.Repeat("x", n))
		frame := q.frame(t)
		return frame[14 : 14+int(ipLength(frame))]
	}
	total := 0
	for _, n := range payloads {
		bytes += uint64(len(of(n)))
		total += n
	}
	return of(total), bytes
}

// tunnelledBoth is tunnelled or tunnelled6, as the packet inside is.
func tunnelledBoth(t testing.TB, inner []byte) []byte {
	t.Helper()
	if inner[0]>>4 == 6 {
		return tunnelled6(t, inner, nil)
	}
	return tunnelled(t, inner, nil)
}

// kindOf is what a card that merged an IP packet calls it.
func kindOf(packet []byte) uint8 {
	switch proto, _ := transportOf(packet); {
	case proto == uint8(udp):
		return mergedUDP
	case packet[0]>>4 == 6:
		return mergedTCP6
	}
	return mergedTCP4
}

// withOptionBytes is a segment with n bytes of TCP options.
func withOptionBytes(p packet, n int) packet {
	p.tcpOpts = []layers.TCPOption{{OptionType: 253, OptionLength: uint8(n), OptionData: make([]byte, n-2)}}
	return p
}

// The counters are of packets as the balancer sent them, though the card or the stack
// merges them before TC sees them.
func TestWhatTheCardMergedCountsAsItsSegments(t *testing.T) {
	segment, even, shorter := request(40000, "A"), []int{100, 100, 100, 100}, []int{100, 100, 100, 100, 100, 1}
	withIPOptions := segment
	withIPOptions.options = ipOptions(10)
	hop, options := padded(hopByHopHeader, 8), padded(destinationHeader, 64)
	c := newTap(t, 0)
	for name, m := range map[string]struct {
		packet   packet
		payloads []int
	}{
		"TCP":                                    {segment, even},
		"TCP, the last segment of one byte":      {segment, shorter},
		"TCP, two segments":                      {segment, []int{100, 99}},
		"TCP, as much as IP allows":              {segment, append(slices.Repeat([]int{100}, 640), 99)},
		"TCP with timestamps' 12 bytes":          {withOptionBytes(segment, 12), shorter},
		"TCP with as many options as there can":  {withOptionBytes(segment, 40), shorter},
		"TCP behind IPv4 options":                {withIPOptions, shorter},
		"UDP":                                    {datagram(40000, ""), even},
		"UDP, the last datagram of one byte":     {datagram(40000, ""), shorter},
		"TCP over IPv6":                          {overIPv6(segment), even},
		"TCP over IPv6, a shorter last segment":  {overIPv6(segment), shorter},
		"TCP with options over IPv6":             {overIPv6(withOptionBytes(segment, 12)), shorter},
		"UDP over IPv6":                          {overIPv6(datagram(40000, "")), even},
		"UDP over IPv6, a shorter last datagram": {overIPv6(datagram(40000, "")), shorter},
		"TCP behind IPv6 extension headers":      {withExtensions(overIPv6(segment), hop, options, hop, options), shorter},
	} {
		t.Run(name, func(t *testing.T) {
			merged, bytes := merge(t, m.packet, m.payloads...)
			c := c.in(t)
			c.forget()
			c.receive(tunnelledBoth(t, merged), kindOf(merged), 100)
			want := DecapTCDecapTraffic{DecapsulatedPackets: uint64(len(m.payloads)), DecapsulatedBytes: bytes}
			if got := c.traffic(); got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
		})
	}
}

func TestWhatTheCardMergedOfUnreadableHeadersCountsAsOnePacket(t *testing.T) {
	segment := request(40000, "A")
	segment.payload = bytes.Repeat([]byte{0x50}, 300) // a data offset, where one is looked for
	offset := func(words byte, packet []byte) []byte {
		_, at := transportOf(packet)
		packet[at+12] = words << 4
		return packet
	}
	unknown := segment
	unknown.proto, unknown.raw = layers.IPProtocolSCTP, true
	option := padded(destinationHeader, 8)
	five := withExtensions(overIPv6(segment), option, option, option, option, option)
	cut := bytes.Clone(unknown.frame(t)[14 : 14+30])
	binary.BigEndian.PutUint16(cut[2:], 30)
	cut[9] = byte(tcp)
	c := newTap(t, 0)
	for name, packet := range map[string][]byte{
		"a protocol that nobody merges":           unknown.frame(t)[14:],
		"the same over IPv6":                      overIPv6(unknown).frame(t)[14:],
		"a TCP data offset below the header":      offset(4, segment.frame(t)[14:]),
		"a TCP data offset beyond the packet":     offset(15, segment.frame(t)[14:14+40]),
		"more IPv6 extension headers than passed": five.frame(t)[14:],
		"a packet that ends in its TCP header":    cut,
	} {
		t.Run(name, func(t *testing.T) {
			if packet[0]>>4 == 4 {
				binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
			}
			c := c.in(t)
			c.forget()
			c.receive(tunnelledBoth(t, packet), mergedTCP4, 1)
			want := DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: uint64(len(packet))}
			if got := c.traffic(); got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
		})
	}
}

// The stack says how many it has merged.
func TestWhatTheStackMergedCountsAsItsSegments(t *testing.T) {
	for name, p := range map[string]packet{
		"TCP":                        request(40000, "A"),
		"TCP with options":           withOptionBytes(request(40000, "A"), 12),
		"TCP over IPv6":              overIPv6(request(40000, "A")),
		"TCP with options over IPv6": overIPv6(withOptionBytes(request(40000, "A"), 12)),
	} {
		t.Run(name, func(t *testing.T) {
			c := newTap(t, unix.IFF_NAPI)
			c.holdBack(20 * time.Millisecond)
			var want DecapTCDecapTraffic
			var frames [][]byte
			for i, n := range []int{100, 100, 100, 100, 1} {
				packet, _ := merge(t, p, n) // one of one, without the frame's padding
				_, at := transportOf(packet)
				nextSegment(packet, at, 100*i)
				frames = append(frames, tunnelledBoth(t, packet))
				want.DecapsulatedPackets++
				want.DecapsulatedBytes += uint64(len(packet))
			}
			// A tick of the clock may fall between two of them; then they are not merged.
			for deadline := time.Now().Add(10 * time.Second); ; {
				c.forget()
				c.seen()
				for _, frame := range frames {
					c.receive(frame, 0, 0)
				}
				for c.traffic().DecapsulatedPackets < want.DecapsulatedPackets && time.Now().Before(deadline) {
					runtime.Gosched()
				}
				if got := c.traffic(); got != want {
					t.Fatalf("counted %+v, want %+v", got, want)
				}
				if c.seen() == 1 {
					return
				}
				if time.Now().After(deadline) {
					t.Fatal("the stack has merged nothing")
				}
			}
		})
	}
}

// nextSegment moves a TCP segment on by some bytes of its stream.
func nextSegment(packet []byte, tcp, bytes int) {
	sequence := packet[tcp+4 : tcp+8]
	binary.BigEndian.PutUint32(sequence, binary.BigEndian.Uint32(sequence)+uint32(bytes))
	sum := packet[tcp+16 : tcp+18]
	binary.BigEndian.PutUint16(sum, ^uint16(sumWords(binary.BigEndian.AppendUint16(nil, uint16(bytes)), uint32(^binary.BigEndian.Uint16(sum)))))
}

// skBuff is struct __sk_buff of linux/bpf.h, of which a test run takes these two.
type skBuff struct {
	_       [164]byte
	GSOSegs uint32
	_       [8]byte
	GSOSize uint32
	_       [12]byte
}

// A test run takes the kernel's number of segments, but not what they are of, without
// which nothing is stripped of them: that is the helper's refusal.
func TestMergedPacketsThatAreNotStrippedCountAsTheKernelCountsThem(t *testing.T) {
	requireRoot(t)
	plain := request(40000, "A")
	plain.payload = make([]byte, 300)
	arp := plain.frame(t)
	binary.BigEndian.PutUint16(arp[12:], 0x0806)
	malformed := tunnelled(t, inner(t, "0123456789012345"), nil)
	malformed[14+20] = 0x65
	d := decapsulators["TC"](t)
	must(t, d.config.Put(uint32(0), decapFrom(backendNode, lbAddress)))
	for _, c := range []struct {
		name           string
		frame          []byte
		segments, size uint32
		counted        DecapTCDecapTraffic
	}{
		{"three that are not encapsulated", plain.frame(t), 3, 100, DecapTCDecapTraffic{PassedPackets: 3}},
		{"some that are not encapsulated", plain.frame(t), 0, 100, DecapTCDecapTraffic{PassedPackets: 1}},
		{"one that is not encapsulated, and a number that means nothing", plain.frame(t), 3, 0, DecapTCDecapTraffic{PassedPackets: 1}},
		{"three of neither family", arp, 3, 100, DecapTCDecapTraffic{PassedPackets: 3}},
		{"three malformed ones", malformed, 3, 100, DecapTCDecapTraffic{MalformedPackets: 3}},
		{"some malformed ones", malformed, 0, 100, DecapTCDecapTraffic{MalformedPackets: 1}},
		{"three that the helper refuses", tunnelled(t, plain.frame(t)[14:], nil), 3, 100, DecapTCDecapTraffic{MalformedPackets: 3}},
		{"some that the helper refuses", tunnelled(t, plain.frame(t)[14:], nil), 0, 90, DecapTCDecapTraffic{MalformedPackets: 4}},
		{"one encapsulated, and a number that means nothing", tunnelled(t, inner(t, "data"), nil), 3, 0, DecapTCDecapTraffic{DecapsulatedPackets: 1, DecapsulatedBytes: 44}},
	} {
		sub(t, d, c.name, func(d *decapsulator) {
			d.forget()
			_, err := d.program.Run(&ebpf.RunOptions{Data: c.frame, Context: skBuff{GSOSegs: c.segments, GSOSize: c.size}})
			must(d.t, err)
			if got := d.traffic(); got != c.counted {
				d.t.Errorf("counted %+v, want %+v", got, c.counted)
			}
		})
	}
}
