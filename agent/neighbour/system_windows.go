package neighbour

import (
	"context"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"l4lab/agent/datapath"
)

// system is Windows, through the IP helper API (netioapi.h). Not run on a Windows host yet.
type system struct {
	index   uint32
	resolve *windows.LazyProc
	delete  *windows.LazyProc
	table   *windows.LazyProc
	route   *windows.LazyProc
}

// NewSystem returns the routes and neighbours of the interface with that index.
func NewSystem(index int) System {
	dll := windows.NewLazySystemDLL("iphlpapi.dll")
	return system{
		index:   uint32(index),
		resolve: dll.NewProc("ResolveIpNetEntry2"),
		delete:  dll.NewProc("DeleteIpNetEntry2"),
		table:   dll.NewProc("GetIpNetTable2"),
		route:   dll.NewProc("GetBestRoute2"),
	}
}

// ipNetRow is MIB_IPNET_ROW2.
type ipNetRow struct {
	Address         windows.RawSockaddrInet
	InterfaceIndex  uint32
	InterfaceLUID   uint64
	PhysicalAddress [32]byte
	PhysicalLength  uint32
	State           int32
	Flags           uint8
	Reachability    uint32
}

// ipNetTable is MIB_IPNET_TABLE2: as many rows as NumEntries says.
type ipNetTable struct {
	NumEntries uint32
	Rows       [1]ipNetRow
}

// The states of NL_NEIGHBOR_STATE (nldef.h) that are no MAC to use.
const (
	stateUnreachable = 0
	stateIncomplete  = 1
	statePermanent   = 6
)

func (s system) NextHop(backend netip.Addr) (netip.Addr, error) {
	dest := sockaddr(backend)
	var best windows.MibIpForwardRow2
	var source windows.RawSockaddrInet
	// No interface is given: what counts is the way that the system would take.
	code, _, _ := s.route.Call(0, 0, 0, uintptr(unsafe.Pointer(&dest)), 0,
		uintptr(unsafe.Pointer(&best)), uintptr(unsafe.Pointer(&source)))
	if code != 0 {
		return netip.Addr{}, fmt.Errorf("find the route to %s: %w", backend, windows.Errno(code))
	}
	if best.InterfaceIndex != s.index {
		return netip.Addr{}, fmt.Errorf("the route to %s leaves through interface %d, the balancer sends through %d",
			backend, best.InterfaceIndex, s.index)
	}
	if gateway, ok := address(&best.NextHop); ok && !gateway.IsUnspecified() {
		return gateway, nil
	}
	return backend, nil
}

func (s system) Entries() (map[netip.Addr]Entry, error) {
	entries := make(map[netip.Addr]Entry)
	err := s.rows(func(row *ipNetRow) {
		if a, ok := address(&row.Address); ok {
			entries[a] = entryOf(row)
		}
	})
	return entries, err
}

// rows visits the interface's IPv4 neighbours.
func (s system) rows(visit func(*ipNetRow)) error {
	var table *ipNetTable
	code, _, _ := s.table.Call(windows.AF_INET, uintptr(unsafe.Pointer(&table)))
	if code != 0 {
		return fmt.Errorf("read the neighbours of interface %d: %w", s.index, windows.Errno(code))
	}
	defer windows.FreeMibTable(unsafe.Pointer(table))
	rows := unsafe.Slice(&table.Rows[0], table.NumEntries)
	for i := range rows {
		if rows[i].InterfaceIndex == s.index {
			visit(&rows[i])
		}
	}
	return nil
}

func entryOf(row *ipNetRow) Entry {
	var e Entry
	switch {
	case row.State == stateUnreachable:
		e.State = Failed
	case row.State == stateIncomplete || int(row.PhysicalLength) != len(e.MAC):
	default:
		e.State, e.MAC = Valid, datapath.MAC(row.PhysicalAddress[:6])
	}
	return e
}

// Resolve does not wait, though ResolveIpNetEntry2 does: Watch sees what came of it.
func (s system) Resolve(nextHop netip.Addr) error {
	if err := s.resolve.Find(); err != nil {
		return err
	}
	go func() {
		row := ipNetRow{Address: sockaddr(nextHop), InterfaceIndex: s.index}
		_, _, _ = s.resolve.Call(uintptr(unsafe.Pointer(&row)), 0)
	}()
	return nil
}

func (s system) Forget(nextHop netip.Addr) error {
	var code uintptr
	err := s.rows(func(row *ipNetRow) {
		if a, _ := address(&row.Address); a == nextHop && row.State != statePermanent {
			copied := *row
			code, _, _ = s.delete.Call(uintptr(unsafe.Pointer(&copied)))
		}
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("forget the MAC of %s: %w", nextHop, windows.Errno(code))
	}
	return err
}

// pollEvery is how often the table is read: Windows tells of routes and addresses
// (NotifyRouteChange2), not of neighbours.
const pollEvery = 500 * time.Millisecond

func (s system) Watch(ctx context.Context, _ func(netip.Addr, Entry), resync func()) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		resync()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// sockaddr makes a SOCKADDR_INET of an IPv4 address.
func sockaddr(a netip.Addr) windows.RawSockaddrInet {
	var s windows.RawSockaddrInet
	v4 := (*windows.RawSockaddrInet4)(unsafe.Pointer(&s))
	v4.Family = windows.AF_INET
	v4.Addr = a.As4()
	return s
}

func address(s *windows.RawSockaddrInet) (netip.Addr, bool) {
	if s.Family != windows.AF_INET {
		return netip.Addr{}, false
	}
	v4 := (*windows.RawSockaddrInet4)(unsafe.Pointer(s))
	return netip.AddrFrom4(v4.Addr), true
}

// The kernel fills a row by these offsets; a compiler that lays it out
// otherwise does not compile this.
var _ = [1]struct{}{}[unsafe.Sizeof(ipNetRow{})-88]
