package capture

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// tcpFrame is an Ethernet frame with an IPv4 header of some length and ports after it.
func tcpFrame(protocol byte, from, to string, options int, fragment uint16) []byte {
	source, dest := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	ip := make([]byte, 20+options)
	ip[0] = 0x40 | byte(len(ip)/4)
	binary.BigEndian.PutUint16(ip[6:], fragment)
	ip[9] = protocol
	copy(ip[12:], source.Addr().AsSlice())
	copy(ip[16:], dest.Addr().AsSlice())
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source.Port()), dest.Port())
	macs := make([]byte, 12)
	return slices.Concat(macs, []byte{0x08, 0x00}, ip, ports, make([]byte, 20))
}

func TestExcludeTCPLeavesOutOneServersConnectionsAlone(t *testing.T) {
	filter, err := ExcludeTCP(netip.MustParseAddrPort("20.1.1.30:22"))
	if err != nil {
		t.Fatal(err)
	}
	const tcp, udp, ipip = 6, 17, 4
	for _, c := range []struct {
		name  string
		frame []byte
		kept  bool
	}{
		{"a segment to the server", tcpFrame(tcp, "20.1.1.100:5000", "20.1.1.30:22", 0, 0), false},
		{"a segment from the server", tcpFrame(tcp, "20.1.1.30:22", "20.1.1.100:5000", 0, 0), false},
		{"one behind IP options", tcpFrame(tcp, "20.1.1.30:22", "20.1.1.100:5000", 8, 0), false},
		{"one that may not be fragmented", tcpFrame(tcp, "20.1.1.30:22", "20.1.1.100:5000", 0, 0x4000), false},
		{"the server as a client of port 22", tcpFrame(tcp, "20.1.1.30:5000", "20.1.1.100:22", 0, 0), true},
		{"another server's port 22", tcpFrame(tcp, "20.1.1.100:5000", "20.1.1.40:22", 0, 0), true},
		{"the server's page", tcpFrame(tcp, "20.1.1.100:22", "20.1.1.30:80", 0, 0), true},
		{"a datagram to the port", tcpFrame(udp, "20.1.1.100:5000", "20.1.1.30:22", 0, 0), true},
		{"an encapsulated packet", tcpFrame(ipip, "20.1.1.1:22", "20.1.1.30:22", 0, 0), true},
		{"a later fragment, which has no ports", tcpFrame(tcp, "20.1.1.100:5000", "20.1.1.30:22", 0, 100), true},
		{"a frame of ARP", append(slices.Concat(make([]byte, 12), []byte{0x08, 0x06}), make([]byte, 46)...), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			kept, err := Keep([]Frame{{Data: c.frame, Length: len(c.frame)}}, filter)
			if err != nil {
				t.Fatal(err)
			}
			if (len(kept) == 1) != c.kept {
				t.Errorf("the filter keeps %d frames", len(kept))
			}
		})
	}
	if _, err := ExcludeTCP(netip.MustParseAddrPort("[2001:db8::1]:22")); err == nil {
		t.Error("an IPv6 server: want an error")
	}
}
