package oracle

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// field is a named part of a header, in bits from its beginning.
type field struct {
	name       string
	from, bits int
	show       func([]byte) string
}

// layer is a header, or what follows the last one, as it lies in a frame.
type layer struct {
	name   string
	bytes  []byte
	fields []field
	// rest is what the bytes behind the fields are.
	rest string
}

func showMAC(b []byte) string { return net.HardwareAddr(b).String() }

func showAddress(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

// The fields of each header, as its RFC draws them: 791, 8200, 9293, 768, 792, 4443.
var (
	ethernetFields = []field{{"destination MAC", 0, 48, showMAC}, {"source MAC", 48, 48, showMAC}, {"EtherType", 96, 16, hexadecimal}}
	ipv4Fields     = []field{
		{"version", 0, 4, decimal}, {"header length", 4, 4, decimal}, {"type of service", 8, 8, hexadecimal}, {"total length", 16, 16, decimal},
		{"identification", 32, 16, decimal}, {"reserved flag", 48, 1, decimal}, {"don't fragment", 49, 1, decimal},
		{"more fragments", 50, 1, decimal}, {"fragment offset", 51, 13, decimal}, {"TTL", 64, 8, decimal}, {"protocol", 72, 8, decimal},
		{"checksum", 80, 16, hexadecimal}, {"source address", 96, 32, showAddress}, {"destination address", 128, 32, showAddress},
	}
	ipv6Fields = []field{
		{"version", 0, 4, decimal}, {"traffic class", 4, 8, hexadecimal}, {"flow label", 12, 20, hexadecimal}, {"payload length", 32, 16, decimal},
		{"next header", 48, 8, decimal}, {"hop limit", 56, 8, decimal},
		{"source address", 64, 128, showAddress}, {"destination address", 192, 128, showAddress},
	}
	tcpFields = []field{
		{"source port", 0, 16, decimal}, {"destination port", 16, 16, decimal}, {"sequence number", 32, 32, decimal},
		{"acknowledgement number", 64, 32, decimal}, {"data offset", 96, 4, decimal}, {"reserved bits", 100, 4, decimal}, {"flags", 104, 8, hexadecimal},
		{"window", 112, 16, decimal}, {"checksum", 128, 16, hexadecimal}, {"urgent pointer", 144, 16, decimal},
	}
	udpFields = []field{
		{"source port", 0, 16, decimal}, {"destination port", 16, 16, decimal}, {"length", 32, 16, decimal}, {"checksum", 48, 16, hexadecimal},
	}
	icmpFields = []field{{"type", 0, 8, decimal}, {"code", 8, 8, decimal}, {"checksum", 16, 16, hexadecimal}, {"rest of header", 32, 32, hexadecimal}}
)

var transportFields = map[uint8][]field{TCP: tcpFields, UDP: udpFields, ICMP: icmpFields, ICMPv6: icmpFields}

// decimal and hexadecimal show a number that was taken out by bits.
func decimal(b []byte) string     { return strconv.FormatUint(number(b), 10) }
func hexadecimal(b []byte) string { return fmt.Sprintf("%#x", number(b)) }

func number(b []byte) (n uint64) {
	for _, x := range b {
		n = n<<8 | uint64(x)
	}
	return n
}

// take returns a field's bits, right-aligned; ok says that the header reaches so far.
func (f field) take(header []byte) (value []byte, ok bool) {
	first, last := f.from/8, (f.from+f.bits+7)/8
	if last > len(header) {
		return nil, false
	}
	if f.from%8 == 0 && f.bits%8 == 0 {
		return header[first:last], true
	}
	n := number(header[first:last]) >> (last*8 - f.from - f.bits) & (1<<f.bits - 1)
	for shift := (f.bits - 1) / 8 * 8; shift >= 0; shift -= 8 {
		value = append(value, byte(n>>shift))
	}
	return value, true
}

// layers takes a frame apart.
func (f Frame) layers() (all []layer) {
	all = []layer{{"Ethernet header", f.Data[:min(14, len(f.Data))], ethernetFields, ""}}
	if !f.IsIP() {
		return append(all, layer{name: "payload", bytes: f.Data[min(14, len(f.Data)):], rest: "bytes"})
	}
	at := f.IPs[0].at
	if at > 14 {
		all = append(all, layer{name: "VLAN tags", bytes: f.Data[14:at], rest: "bytes"})
	}
	for i, ip := range f.IPs {
		end := f.transport
		if i+1 < len(f.IPs) {
			end = f.IPs[i+1].at
		}
		all = append(all, ipLayer(f.which(i), ip.six, f.Data[ip.at:end]))
	}
	ip := f.Inner()
	all = append(all, f.transportLayers(f.Data[f.transport:ip.end])...)
	for i := len(f.IPs) - 2; i >= 0; i-- {
		all = append(all, layer{name: "end of the " + f.which(i) + "packet", bytes: f.Data[f.IPs[i+1].end:f.IPs[i].end], rest: "bytes"})
	}
	return append(all, layer{name: "Ethernet padding", bytes: f.Data[f.IPs[0].end:], rest: "bytes"})
}

func ipLayer(which string, six bool, header []byte) layer {
	if six {
		return layer{which + "IPv6 header", header, ipv6Fields, "extension headers"}
	}
	return layer{which + "IPv4 header", header, ipv4Fields, "options"}
}

// transportLayers takes apart what the innermost IP header carries.
func (f Frame) transportLayers(bytes []byte) []layer {
	fields, known := transportFields[f.Protocol]
	if !known || f.Inner().offset > 0 {
		return []layer{{name: "payload", bytes: bytes, rest: "bytes"}}
	}
	header := minimum[f.Protocol]
	if f.Protocol == TCP {
		header = int(bytes[12]>>4) * 4
	}
	all := []layer{{protocolNames[f.Protocol] + " header", bytes[:header], fields, "options"}}
	if !IsError(f) {
		return append(all, layer{name: "payload", bytes: bytes[header:], rest: "bytes"})
	}
	q := Quote(f)
	return append(all, ipLayer("quoted ", q.six, q.bytes[:q.ports]),
		layer{"quoted " + protocolNames[q.protocol] + " header", q.bytes[q.ports:], transportFields[q.protocol], "rest"})
}

// Differences says in words, header by header and field by field, how a frame
// differs from the expected one; nothing when it does not.
func Differences(want, got Frame) (found []string) {
	if bytes.Equal(want.Data, got.Data) {
		return nil
	}
	a, b := want.layers(), got.layers()
	names := func(l []layer) (names []string) {
		for _, x := range l {
			if len(x.bytes) > 0 {
				names = append(names, x.name)
			}
		}
		return names
	}
	if x, y := names(a), names(b); !slices.Equal(x, y) {
		found = append(found, fmt.Sprintf("the frame is made of %q, want %q", y, x))
	}
	for _, w := range a {
		if i := slices.IndexFunc(b, func(l layer) bool { return l.name == w.name }); i >= 0 {
			found = append(found, w.differences(b[i])...)
		}
	}
	if len(found) == 0 {
		found = []string{fmt.Sprintf("the frame's bytes are %x, want %x", got.Data, want.Data)}
	}
	return found
}

func (l layer) differences(got layer) (found []string) {
	behind := 0
	for _, f := range l.fields {
		a, has := f.take(l.bytes)
		b, ok := f.take(got.bytes)
		if !has || !ok {
			break
		}
		behind = (f.from + f.bits) / 8
		if !bytes.Equal(a, b) {
			found = append(found, fmt.Sprintf("%s: %s is %s, want %s", l.name, f.name, f.show(b), f.show(a)))
		}
	}
	a, b := l.bytes[behind:], got.bytes[behind:]
	if !bytes.Equal(a, b) {
		found = append(found, fmt.Sprintf("%s: %s differ: %s, want %s", l.name, l.rest, short(b), short(a)))
	}
	return found
}

// short shows the beginning of bytes.
func short(b []byte) string {
	const most = 24
	if len(b) <= most {
		return fmt.Sprintf("%d bytes %x", len(b), b)
	}
	return fmt.Sprintf("%d bytes %x…", len(b), b[:most])
}
