package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

const (
	tcp = layers.IPProtocolTCP
	udp = layers.IPProtocolUDP
)

// packet describes a frame as a test wants it; frame builds it with the lengths
// and checksums that it should have, which makes it a statement of what an output
// frame must look like, byte for byte, as well.
type packet struct {
	sourceMAC, destMAC net.HardwareAddr
	from, to           netip.AddrPort
	proto              layers.IPProtocol
	// flags of TCP, of the letters S, A, F, R, P.
	flags   string
	payload []byte
	ttl     uint8
	tos     uint8
	id      uint16
	// fragment is the IP flags; offset the fragment offset, in units of 8 bytes.
	fragment layers.IPv4Flag
	offset   uint16
	options  []layers.IPv4Option
	tcpOpts  []layers.TCPOption
	// unsummed leaves a UDP checksum of 0.
	unsummed bool
	// padding are bytes behind the IP packet, as on short Ethernet frames.
	padding []byte
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func (p packet) ip() *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, IHL: 5, TOS: p.tos, Id: p.id, Flags: p.fragment, FragOffset: p.offset,
		TTL: p.ttl, Protocol: p.proto, SrcIP: p.from.Addr().AsSlice(), DstIP: p.to.Addr().AsSlice(),
		Options: p.options,
	}
}

// frame builds the frame.
func (p packet) frame(t testing.TB) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: p.sourceMAC, DstMAC: p.destMAC, EthernetType: layers.EthernetTypeIPv4}
	ip := p.ip()
	parts := []gopacket.SerializableLayer{eth, ip}
	switch p.proto {
	case tcp:
		header := &layers.TCP{
			SrcPort: layers.TCPPort(p.from.Port()), DstPort: layers.TCPPort(p.to.Port()),
			Seq: 0x01020304, Ack: 0x0a0b0c0d, Window: 512, Options: p.tcpOpts,
		}
		for _, f := range p.flags {
			switch f {
			case 'S':
				header.SYN = true
			case 'A':
				header.ACK = true
			case 'F':
				header.FIN = true
			case 'R':
				header.RST = true
			case 'P':
				header.PSH = true
			default:
				t.Fatalf("no TCP flag %q", f)
			}
		}
		must(t, header.SetNetworkLayerForChecksum(ip))
		parts = append(parts, header)
	case udp:
		header := &layers.UDP{SrcPort: layers.UDPPort(p.from.Port()), DstPort: layers.UDPPort(p.to.Port())}
		must(t, header.SetNetworkLayerForChecksum(ip))
		parts = append(parts, header)
	}
	parts = append(parts, gopacket.Payload(p.payload))
	frame := append(serialize(t, parts...), p.padding...)
	if p.unsummed {
		at := l4Offset(frame) + 6
		frame[at], frame[at+1] = 0, 0
	}
	return frame
}

func serialize(t testing.TB, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	must(t, gopacket.SerializeLayers(buffer, options, parts...))
	return bytes.Clone(buffer.Bytes())
}

// encapsulated is what DSR makes of a frame: new MACs, an outer header, and
// behind it the frame's own bytes from its IP header on.
func encapsulated(t testing.TB, frame []byte, sourceMAC, destMAC net.HardwareAddr, from, to netip.Addr) []byte {
	t.Helper()
	inner := frame[14:]
	outer := &layers.IPv4{
		Version: 4, IHL: 5, TOS: inner[1], Flags: layers.IPv4DontFragment, TTL: 64,
		Protocol: layers.IPProtocolIPv4, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
	}
	length := binary.BigEndian.Uint16(inner[2:])
	head := serialize(t,
		&layers.Ethernet{SrcMAC: sourceMAC, DstMAC: destMAC, EthernetType: layers.EthernetTypeIPv4},
		outer, gopacket.Payload(inner[:length]))
	return append(head, inner[length:]...)
}

func l4Offset(frame []byte) int { return 14 + int(frame[14]&0x0f)*4 }

// sumWords adds 16-bit words as one's complement, RFC 1071's way.
func sumWords(data []byte, sum uint32) uint32 {
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	if len(data)%2 == 1 {
		sum += uint32(data[len(data)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}

// checksumFaults sums a frame's IPv4 headers and transport anew and says what is wrong.
func checksumFaults(frame []byte) error {
	if s := sumWords(frame[14:l4Offset(frame)], 0); s != 0xffff {
		return fmt.Errorf("IP header sums to %#04x, not 0xffff", s)
	}
	length := int(binary.BigEndian.Uint16(frame[16:]))
	l4 := frame[l4Offset(frame) : 14+length]
	proto := frame[23]
	if proto == 17 && binary.BigEndian.Uint16(l4[6:]) == 0 {
		return nil
	}
	pseudo := sumWords(frame[26:34], uint32(proto)+uint32(len(l4)))
	if s := sumWords(l4, pseudo); s != 0xffff {
		return fmt.Errorf("protocol %d sums to %#04x, not 0xffff", proto, s)
	}
	return nil
}

// equalFrames fails with both frames decoded when they differ.
func equalFrames(t testing.TB, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	decode := func(b []byte) string {
		return gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default).Dump()
	}
	t.Fatalf("frames differ\ngot:\n%s\nwant:\n%s", decode(got), decode(want))
}
