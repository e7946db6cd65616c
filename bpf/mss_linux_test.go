package bpf

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// withTCPOptions is a packet's frame whose TCP options are these very bytes, be
// they options or not; their number is a multiple of 4.
func withTCPOptions(t testing.TB, p packet, options ...byte) []byte {
	t.Helper()
	p.tcpOpts = nil
	for range options {
		p.tcpOpts = append(p.tcpOpts, layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1})
	}
	frame := p.frame(t)
	at := l4Offset(frame)
	if header := int(frame[at+12]>>4) * 4; header != 20+len(options) {
		t.Fatalf("%d bytes of options made a header of %d", len(options), header)
	}
	copy(frame[at+20:], options)
	return resumTCP(frame)
}

// resumTCP makes a frame's TCP checksum right.
func resumTCP(frame []byte) []byte {
	at := l4Offset(frame)
	segment := frame[at : 14+ipLength(frame)]
	frame[at+16], frame[at+17] = 0, 0
	sum := sumWords(segment, sumWords(frame[26:34], uint32(tcp)+uint32(len(segment))))
	binary.BigEndian.PutUint16(frame[at+16:], ^uint16(sum))
	return frame
}

var mssCases = map[string]struct {
	options, clamped []byte // clamped is nil where nothing changes
	mss              uint16
}{
	"MSS alone":                             {[]byte{2, 4, 5, 180}, []byte{2, 4, 5, 120}, 1400},
	"the largest MSS":                       {[]byte{2, 4, 255, 255}, []byte{2, 4, 5, 120}, 1400},
	"a clamp to 536":                        {[]byte{2, 4, 5, 180}, []byte{2, 4, 2, 24}, 536},
	"one byte too many":                     {[]byte{2, 4, 5, 121}, []byte{2, 4, 5, 120}, 1400},
	"exactly as wanted":                     {[]byte{2, 4, 5, 120}, nil, 1400},
	"smaller already":                       {[]byte{2, 4, 2, 24}, nil, 1400},
	"no clamp is asked for":                 {[]byte{2, 4, 5, 180}, nil, 0},
	"no options":                            {nil, nil, 1400},
	"others only":                           {[]byte{4, 2, 1, 3, 3, 7, 0, 0}, nil, 1400},
	"behind two NOPs":                       {[]byte{1, 1, 2, 4, 5, 180, 0, 0}, []byte{1, 1, 2, 4, 5, 120, 0, 0}, 1400},
	"at an odd offset":                      {[]byte{1, 2, 4, 5, 180, 0, 0, 0}, []byte{1, 2, 4, 5, 120, 0, 0, 0}, 1400},
	"at an odd offset, both bytes change":   {[]byte{1, 2, 4, 200, 3, 0, 0, 0}, []byte{1, 2, 4, 5, 120, 0, 0, 0}, 1400},
	"at another odd offset":                 {[]byte{1, 1, 1, 2, 4, 5, 180, 0}, []byte{1, 1, 1, 2, 4, 5, 120, 0}, 1400},
	"behind options as Linux has them":      {[]byte{4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7, 2, 4, 5, 180}, []byte{4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7, 2, 4, 5, 120}, 1400},
	"before options as Linux has them":      {[]byte{2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7}, []byte{2, 4, 5, 120, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7}, 1400},
	"at the end of the longest header":      {append([]byte{254, 36}, append(make([]byte, 34), 2, 4, 5, 180)...), append([]byte{254, 36}, append(make([]byte, 34), 2, 4, 5, 120)...), 1400},
	"twice, where the first counts":         {[]byte{2, 4, 5, 180, 2, 4, 5, 180}, []byte{2, 4, 5, 120, 2, 4, 5, 180}, 1400},
	"behind the end of options":             {[]byte{0, 2, 4, 5, 180, 0, 0, 0}, nil, 1400},
	"behind seven NOPs":                     {[]byte{1, 1, 1, 1, 1, 1, 1, 2, 4, 5, 180, 0}, []byte{1, 1, 1, 1, 1, 1, 1, 2, 4, 5, 120, 0}, 1400},
	"behind more NOPs than are looked at":   {[]byte{1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 5, 180}, nil, 1400},
	"an option of length 0 in front":        {[]byte{5, 0, 1, 1, 2, 4, 5, 180}, nil, 1400},
	"an option of length 1 in front":        {[]byte{5, 1, 1, 1, 2, 4, 5, 180}, nil, 1400},
	"an option that reaches beyond":         {[]byte{5, 200, 1, 1, 2, 4, 5, 180}, nil, 1400},
	"an MSS of length 0":                    {[]byte{2, 0, 5, 180}, nil, 1400},
	"an MSS of length 1":                    {[]byte{2, 1, 5, 180}, nil, 1400},
	"an MSS of length 3":                    {[]byte{2, 3, 5, 180}, nil, 1400},
	"an MSS of length 6":                    {[]byte{2, 6, 5, 180, 0, 0, 0, 0}, nil, 1400},
	"an MSS that the header's end cuts off": {[]byte{1, 1, 2, 4}, nil, 1400},
	"an MSS of which one byte is missing":   {[]byte{1, 2, 4, 5}, nil, 1400},
}

func TestAHandshakesMSSIsBounded(t *testing.T) {
	for name, c := range mssCases {
		clamped := c.clamped
		if clamped == nil {
			clamped = c.options
		}
		syn := request(40000, "S")
		syn.payload = []byte{5, 180, 5, 180} // what a header that was cut off would go on with
		bounded := func(t *testing.T, make func(testing.TB) *balancer) *balancer {
			b := make(t)
			b.changeService(web, 6, func(s *LBService) { s.Mss = c.mss })
			return b
		}
		t.Run("DSR, "+name, func(t *testing.T) {
			b := bounded(t, dsrBalancer)
			m := backendMAC(3)
			out := b.forwardFrame(withTCPOptions(t, syn, c.options...))
			equalFrames(t, out, encapsulated(t, withTCPOptions(t, syn, clamped...), lbMAC, m[:], lbAddress, backendAddress(3)))
		})
		t.Run("SNAT, "+name, func(t *testing.T) {
			b := bounded(t, snatBalancer)
			out := b.forwardFrame(withTCPOptions(t, syn, c.options...))
			equalFrames(t, out, withTCPOptions(t, translated(syn, 40000, 3), clamped...))
			reply := answer(3, 40000, 6, "SA")
			out = b.forwardFrame(withTCPOptions(t, reply, c.options...))
			equalFrames(t, out, withTCPOptions(t, translatedBack(reply, web, syn.from), clamped...))
		})
	}
}

func TestOnlyAHandshakesMSSIsBounded(t *testing.T) {
	b := snatBalancer(t)
	b.changeService(web, 6, func(s *LBService) { s.Mss = 536 })
	mss := []byte{2, 4, 5, 180}
	for _, flags := range []string{"A", "A", "FA"} {
		p := request(40000, flags)
		equalFrames(t, b.forwardFrame(withTCPOptions(t, p, mss...)), withTCPOptions(t, translated(p, 40000, 3), mss...))
		reply := answer(3, 40000, 6, flags)
		equalFrames(t, b.forwardFrame(withTCPOptions(t, reply, mss...)), withTCPOptions(t, translatedBack(reply, web, p.from), mss...))
	}
}

func TestAWrongChecksumStaysWrongWhenTheMSSIsBounded(t *testing.T) {
	b := dsrBalancer(t)
	b.changeService(web, 6, func(s *LBService) { s.Mss = 536 })
	in := withTCPOptions(t, request(40000, "S"), 2, 4, 5, 180)
	in[34+16] ^= 0x55
	out := b.forwardFrame(in)
	if checksumFaults(append(append([]byte(nil), out[:14]...), out[34:]...)) == nil {
		t.Error("the balancer repaired a checksum that came in wrong")
	}
}
