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
	tcp   = layers.IPProtocolTCP
	udp   = layers.IPProtocolUDP
	icmp4 = layers.IPProtocolICMPv4
	icmp6 = layers.IPProtocolICMPv6
)

// packet describes a frame as a test wants it; frame builds it with the lengths
// and checksums that it should have, which makes it a statement of what an output
// frame must look like, byte for byte, as well. The family is that of the addresses.
type packet struct {
	sourceMAC, destMAC net.HardwareAddr
	from, to           netip.AddrPort
	proto              layers.IPProtocol
	// flags of TCP, of the letters S, A, F, R, P.
	flags   string
	payload []byte
	// ttl is IPv6's hop limit, tos its traffic class, and label only IPv6 has.
	ttl   uint8
	tos   uint8
	label uint32
	id    uint16
	// fragment is the IP flags; offset the fragment offset, in units of 8 bytes.
	fragment layers.IPv4Flag
	offset   uint16
	options  []layers.IPv4Option
	tcpOpts  []layers.TCPOption
	// extensions are IPv6's, in their order.
	extensions []extension
	// icmp is what stands in front of an ICMP message's payload.
	icmp icmpHeader
	// raw packets have no transport header: later fragments, unknown protocols.
	raw bool
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

// frame builds the frame.
func (p packet) frame(t testing.TB) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: p.sourceMAC, DstMAC: p.destMAC, EthernetType: layers.EthernetTypeIPv4}
	var ip interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	} = p.ip4()
	if p.from.Addr().Is6() {
		eth.EthernetType, ip = layers.EthernetTypeIPv6, p.ip6()
	}
	parts := []gopacket.SerializableLayer{eth, ip}
	for i := range p.extensions {
		parts = append(parts, gopacket.Payload(p.extension(i)))
	}
	if !p.raw {
		parts = append(parts, p.transport(t, ip)...)
	}
	parts = append(parts, gopacket.Payload(p.payload))
	frame := append(serialize(t, parts...), p.padding...)
	if p.unsummed {
		at := l4Offset(frame) + 6
		frame[at], frame[at+1] = 0, 0
	}
	return frame
}

func (p packet) ip4() *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, IHL: 5, TOS: p.tos, Id: p.id, Flags: p.fragment, FragOffset: p.offset,
		TTL: p.ttl, Protocol: p.proto, SrcIP: p.from.Addr().AsSlice(), DstIP: p.to.Addr().AsSlice(),
		Options: p.options,
	}
}

// transport is the header of TCP, UDP or ICMP.
func (p packet) transport(t testing.TB, ip gopacket.NetworkLayer) []gopacket.SerializableLayer {
	t.Helper()
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
		return []gopacket.SerializableLayer{header}
	case udp:
		header := &layers.UDP{SrcPort: layers.UDPPort(p.from.Port()), DstPort: layers.UDPPort(p.to.Port())}
		must(t, header.SetNetworkLayerForChecksum(ip))
		return []gopacket.SerializableLayer{header}
	case icmp4, icmp6:
		return []gopacket.SerializableLayer{gopacket.Payload(p.icmpMessage())}
	}
	return nil
}

func serialize(t testing.TB, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	must(t, gopacket.SerializeLayers(buffer, options, parts...))
	return bytes.Clone(buffer.Bytes())
}

// encapsulated is what DSR makes of a frame: new MACs, an outer header of the
// frame's own family, and behind it the frame's bytes from its IP header on.
func encapsulated(t testing.TB, frame []byte, sourceMAC, destMAC net.HardwareAddr, from, to netip.Addr) []byte {
	t.Helper()
	inner := frame[14:]
	eth := &layers.Ethernet{SrcMAC: sourceMAC, DstMAC: destMAC, EthernetType: layers.EthernetTypeIPv4}
	var outer gopacket.SerializableLayer = &layers.IPv4{
		Version: 4, IHL: 5, TOS: inner[1], Flags: layers.IPv4DontFragment, TTL: 64,
		Protocol: layers.IPProtocolIPv4, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
	}
	if from.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		outer = &layers.IPv6{
			Version: 6, TrafficClass: inner[0]<<4 | inner[1]>>4, HopLimit: 64,
			NextHeader: layers.IPProtocolIPv6, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
		}
	}
	length := int(ipLength(frame))
	head := serialize(t, eth, outer, gopacket.Payload(inner[:length]))
	return append(head, inner[length:]...)
}

// l4Offset is where a frame's transport header is.
func l4Offset(frame []byte) int {
	_, at := transportOf(frame[14:])
	return 14 + at
}

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

// checksumFaults sums a frame's headers and transport anew and says what is wrong;
// of IP-in-IP both packets, of an ICMP error also what it quotes.
func checksumFaults(frame []byte) error {
	return packetFaults(frame[14:14+int(ipLength(frame))], false)
}

// packetFaults is checksumFaults of an IP packet, which may be cut short where it is quoted.
func packetFaults(ip []byte, quoted bool) error {
	proto, at := transportOf(ip)
	if ip[0]>>4 == 4 {
		if s := sumWords(ip[:at], 0); s != 0xffff {
			return fmt.Errorf("IP header sums to %#04x, not 0xffff", s)
		}
	}
	length := int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 == 6 {
		length = 40 + int(binary.BigEndian.Uint16(ip[4:]))
	}
	if quoted && length > len(ip) {
		return nil
	}
	l4 := ip[at:length]
	pseudo := uint32(proto) + uint32(len(l4))
	if ip[0]>>4 == 4 {
		pseudo = sumWords(ip[12:20], pseudo)
	} else {
		pseudo = sumWords(ip[8:40], pseudo)
	}
	switch proto {
	case 4, 41:
		return packetFaults(l4, false)
	case 1:
		pseudo = 0
	case 17:
		if binary.BigEndian.Uint16(l4[6:]) == 0 {
			return nil
		}
	}
	if s := sumWords(l4, pseudo); s != 0xffff {
		return fmt.Errorf("protocol %d sums to %#04x, not 0xffff", proto, s)
	}
	if proto == 1 && l4[0] != 0 && l4[0] != 8 || proto == 58 && l4[0] < 128 {
		return packetFaults(l4[8:], true)
	}
	return nil
}

// summingToZero gives a datagram the payload with which its checksum is computed as zero.
func summingToZero(t testing.TB, p packet) packet {
	t.Helper()
	p.payload = []byte{0, 0}
	frame := p.frame(t)
	p.payload = binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(frame[l4Offset(frame)+6:]))
	return p
}

// allOnes is a datagram's frame with the checksum that is sent for one computed as zero.
func allOnes(frame []byte) []byte {
	at := l4Offset(frame) + 6
	frame[at], frame[at+1] = 0xff, 0xff
	return frame
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
