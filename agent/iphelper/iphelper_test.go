package iphelper

import (
	"net/netip"
	"testing"
	"unsafe"
)

// The sizes and offsets are those of the Windows SDK's C compiler for x64, computed
// by its rules from netioapi.h: every member at a multiple of its size, SOCKADDR_INET
// of 28 bytes at a multiple of 4.
func TestLayoutsAreThoseOfNetioapi(t *testing.T) {
	var n Neighbour
	var table neighbourTable
	var r Route
	for name, c := range map[string]struct{ got, want uintptr }{
		"SOCKADDR_INET":                        {unsafe.Sizeof(Address{}), 28},
		"SOCKADDR_INET.Ipv4.sin_addr":          {unsafe.Offsetof(Address{}.IPv4Flow), 4},
		"SOCKADDR_INET.Ipv6.sin6_addr":         {unsafe.Offsetof(Address{}.IPv6), 8},
		"SOCKADDR_INET.Ipv6.sin6_scope_id":     {unsafe.Offsetof(Address{}.Scope), 24},
		"MIB_IPNET_ROW2":                       {unsafe.Sizeof(n), 88},
		"MIB_IPNET_ROW2.InterfaceIndex":        {unsafe.Offsetof(n.InterfaceIndex), 28},
		"MIB_IPNET_ROW2.InterfaceLuid":         {unsafe.Offsetof(n.InterfaceLUID), 32},
		"MIB_IPNET_ROW2.PhysicalAddress":       {unsafe.Offsetof(n.PhysicalAddress), 40},
		"MIB_IPNET_ROW2.PhysicalAddressLength": {unsafe.Offsetof(n.PhysicalLength), 72},
		"MIB_IPNET_ROW2.State":                 {unsafe.Offsetof(n.State), 76},
		"MIB_IPNET_ROW2.Flags":                 {unsafe.Offsetof(n.Flags), 80},
		"MIB_IPNET_ROW2.ReachabilityTime":      {unsafe.Offsetof(n.Reachability), 84},
		"MIB_IPNET_TABLE2.Table":               {unsafe.Offsetof(table.Rows), 8},
		"MIB_IPFORWARD_ROW2":                   {unsafe.Sizeof(r), 104},
		"MIB_IPFORWARD_ROW2.InterfaceIndex":    {unsafe.Offsetof(r.InterfaceIndex), 8},
		"MIB_IPFORWARD_ROW2.DestinationPrefix": {unsafe.Offsetof(r.DestinationPrefix), 12},
		"MIB_IPFORWARD_ROW2.NextHop":           {unsafe.Offsetof(r.NextHop), 44},
		"MIB_IPFORWARD_ROW2.SitePrefixLength":  {unsafe.Offsetof(r.SitePrefixLength), 72},
		"MIB_IPFORWARD_ROW2.ValidLifetime":     {unsafe.Offsetof(r.ValidLifetime), 76},
		"MIB_IPFORWARD_ROW2.Metric":            {unsafe.Offsetof(r.Metric), 84},
		"MIB_IPFORWARD_ROW2.Loopback":          {unsafe.Offsetof(r.Loopback), 92},
		"MIB_IPFORWARD_ROW2.Age":               {unsafe.Offsetof(r.Age), 96},
		"MIB_IPFORWARD_ROW2.Origin":            {unsafe.Offsetof(r.Origin), 100},
	} {
		if c.got != c.want {
			t.Errorf("%s is %d, want %d", name, c.got, c.want)
		}
	}
}

func TestAddressesComeBackAsTheyWent(t *testing.T) {
	for _, text := range []string{"20.1.1.10", "fd00::1:2", "fe80::1"} {
		want := netip.MustParseAddr(text)
		a := AddressOf(want)
		if got, ok := a.Addr(); !ok || got != want {
			t.Errorf("%s came back as %s, %v", want, got, ok)
		}
	}
	// sockaddr_in: family 2, port 0, then the address.
	if a := AddressOf(netip.MustParseAddr("20.1.1.10")); [8]byte((*[28]byte)(unsafe.Pointer(&a))[:8]) != [8]byte{2, 0, 0, 0, 20, 1, 1, 10} {
		t.Errorf("20.1.1.10 is %v", a)
	}
	if _, ok := (&Address{Family: 1}).Addr(); ok {
		t.Error("an address of another family is taken for one")
	}
}

func TestANeighbourHasAMACWhenItMayBeUsed(t *testing.T) {
	n := Neighbour{PhysicalAddress: [32]byte{2, 0, 0, 0, 0, 7}, PhysicalLength: 6}
	for state, want := range map[NeighbourState]bool{
		Unreachable: false, Incomplete: false, Probe: true, Delay: true, Stale: true, Reachable: true, Permanent: true,
	} {
		n.State = state
		if mac, ok := n.MAC(); ok != want || ok && mac != [6]byte{2, 0, 0, 0, 0, 7} {
			t.Errorf("state %d: %v, %v, want %v", state, mac, ok, want)
		}
	}
	n.PhysicalLength = 8
	if _, ok := n.MAC(); ok {
		t.Error("a physical address of 8 bytes is taken for a MAC")
	}
}

func TestARouteWithoutAGatewayIsOfItsOwnLink(t *testing.T) {
	var r Route
	r.NextHop = AddressOf(netip.IPv4Unspecified())
	if _, ok := r.Gateway(); ok {
		t.Error("0.0.0.0 is a gateway")
	}
	want := netip.MustParseAddr("fe80::1")
	r.NextHop = AddressOf(want)
	if got, ok := r.Gateway(); !ok || got != want {
		t.Errorf("gateway %v, %v, want %v", got, ok, want)
	}
}
