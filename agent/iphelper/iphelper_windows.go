package iphelper

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/windows"
)

// The kernel fills these by the offsets of iphelper_test.go; a compiler that lays them
// out otherwise does not compile this. What x/sys has as well has the same size.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(Neighbour{})-88]
	_ = [1]struct{}{}[unsafe.Sizeof(Route{})-unsafe.Sizeof(windows.MibIpForwardRow2{})]
	_ = [1]struct{}{}[unsafe.Sizeof(Address{})-unsafe.Sizeof(windows.RawSockaddrInet6{})]
)

// Table is the IP helper API of one interface.
type Table struct {
	index   uint32
	resolve *windows.LazyProc
	remove  *windows.LazyProc
	table   *windows.LazyProc
	route   *windows.LazyProc
}

// New returns the tables of the interface with that index.
func New(index int) Table {
	dll := windows.NewLazySystemDLL("iphlpapi.dll")
	return Table{
		index:   uint32(index),
		resolve: dll.NewProc("ResolveIpNetEntry2"),
		remove:  dll.NewProc("DeleteIpNetEntry2"),
		table:   dll.NewProc("GetIpNetTable2"),
		route:   dll.NewProc("GetBestRoute2"),
	}
}

// call returns the function's NETIO_STATUS as an error; 0 is success. The directive keeps
// what the arguments point to where it is, as it does for LazyProc.Call.
//
//go:uintptrescapes
func call(proc *windows.LazyProc, arguments ...uintptr) error {
	if err := proc.Find(); err != nil {
		return err
	}
	if status, _, _ := proc.Call(arguments...); status != 0 {
		return fmt.Errorf("%s: %w", proc.Name, windows.Errno(status))
	}
	return nil
}

// Neighbours visits the interface's neighbours of both families.
func (t Table) Neighbours(visit func(*Neighbour)) error {
	var table *neighbourTable
	if err := call(t.table, windows.AF_UNSPEC, uintptr(unsafe.Pointer(&table))); err != nil {
		return err
	}
	defer windows.FreeMibTable(unsafe.Pointer(table))
	rows := unsafe.Slice(&table.Rows[0], table.Count)
	for i := range rows {
		if rows[i].InterfaceIndex == t.index {
			visit(&rows[i])
		}
	}
	return nil
}

// Resolve asks for a neighbour's physical address and waits for the answer, a second
// or more if there is none. It flushes what the system knew, so that it does ask.
func (t Table) Resolve(neighbour netip.Addr) error {
	row := Neighbour{Address: AddressOf(neighbour), InterfaceIndex: t.index}
	return call(t.resolve, uintptr(unsafe.Pointer(&row)), 0)
}

// Remove deletes an entry of the table.
func (t Table) Remove(n *Neighbour) error {
	row := *n
	err := call(t.remove, uintptr(unsafe.Pointer(&row)))
	if errors.Is(err, windows.ERROR_NOT_FOUND) {
		return nil
	}
	return err
}

// RouteTo is the way that the system would take to a destination, through any interface.
func (t Table) RouteTo(destination netip.Addr) (Route, error) {
	to := AddressOf(destination)
	var best Route
	var source Address
	err := call(t.route, 0, 0, 0, uintptr(unsafe.Pointer(&to)), 0,
		uintptr(unsafe.Pointer(&best)), uintptr(unsafe.Pointer(&source)))
	return best, err
}

// Changes is word of changes.
type Changes struct {
	// C gets a value after any number of changes since the last one.
	C       <-chan struct{}
	handles []windows.Handle
}

// Watch tells of changes of interfaces, addresses and routes of both families; of
// neighbours Windows does not tell. Each call takes a callback of the 2000 that
// a Go process has, for good: call it once for each use, not for each wait.
func Watch() (*Changes, error) {
	changed := make(chan struct{}, 1)
	// VOID callback(PVOID context, row of the table, MIB_NOTIFICATION_TYPE), on a thread of
	// the system's that must not be held up. What is returned is ignored.
	callback := windows.NewCallback(func(_, _, _ uintptr) uintptr {
		select {
		case changed <- struct{}{}:
		default:
		}
		return 0
	})
	c := &Changes{C: changed}
	type notify func(family uint16, callback uintptr, context unsafe.Pointer, initial bool, handle *windows.Handle) error
	for name, register := range map[string]notify{
		"NotifyIpInterfaceChange":      windows.NotifyIpInterfaceChange,
		"NotifyUnicastIpAddressChange": windows.NotifyUnicastIpAddressChange,
		"NotifyRouteChange2":           windows.NotifyRouteChange2,
	} {
		var handle windows.Handle
		if err := register(windows.AF_UNSPEC, callback, nil, false, &handle); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", name, err), c.Close())
		}
		c.handles = append(c.handles, handle)
	}
	return c, nil
}

// Close ends it. It waits for callbacks that are running.
func (c *Changes) Close() error {
	var faults []error
	for _, handle := range c.handles {
		faults = append(faults, windows.CancelMibChangeNotify2(handle))
	}
	c.handles = nil
	return errors.Join(faults...)
}
