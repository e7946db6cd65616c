// Package device reads the network interface that the balancer works on, and
// follows what changes of it.
package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Device is an interface as the data path needs it.
type Device struct {
	Name  string
	Index int
	// MTU is in bytes of IP.
	MTU int
	MAC [6]byte
	// Address is the balancer's own.
	Address netip.Addr
}

// Errors that a caller may handle.
var (
	// ErrGone: the interface was deleted.
	ErrGone = errors.New("the interface has gone")
	// ErrUnusable: the interface or the address that was asked for is not
	// there, or cannot be balanced on.
	ErrUnusable = errors.New("unusable interface")
)

// unusable is matched by ErrUnusable; what is wrong is in the error itself.
type unusable struct{ error }

func (u unusable) Unwrap() error { return u.error }

func (u unusable) Is(target error) bool { return target == ErrUnusable }

// Read reads the interface name. The balancer's address is address if that is
// valid, and must be one of the interface's then; else the interface's first IPv4 address.
// What the caller asked for and cannot be is ErrUnusable.
func Read(name string, address netip.Addr) (Device, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return Device{}, unusable{fmt.Errorf("interface %q: %w%s", name, err, presentNames())}
	}
	d := Device{Name: i.Name, Index: i.Index, MTU: i.MTU}
	if len(i.HardwareAddr) != len(d.MAC) {
		return Device{}, unusable{fmt.Errorf("interface %q has no Ethernet address: only Ethernet interfaces are balanced on", name)}
	}
	d.MAC = [6]byte(i.HardwareAddr)
	addresses, err := ipv4Of(i)
	if err != nil {
		return Device{}, err
	}
	switch {
	case len(addresses) == 0:
		return Device{}, unusable{fmt.Errorf("interface %q has no IPv4 address", name)}
	case !address.IsValid():
		d.Address = addresses[0]
		return d, nil
	}
	for _, a := range addresses {
		if a == address {
			d.Address = a
			return d, nil
		}
	}
	return Device{}, unusable{fmt.Errorf("interface %q does not have the address %s, only %v", name, address, addresses)}
}

func ipv4Of(i *net.Interface) ([]netip.Addr, error) {
	all, err := i.Addrs()
	if err != nil {
		return nil, fmt.Errorf("read the addresses of interface %q: %w", i.Name, err)
	}
	var v4 []netip.Addr
	for _, a := range all {
		prefix, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if address, ok := netip.AddrFromSlice(prefix.IP.To4()); ok {
			v4 = append(v4, address)
		}
	}
	return v4, nil
}

// presentNames helps who mistyped a name.
func presentNames() string {
	all, err := net.Interfaces()
	if err != nil || len(all) == 0 {
		return ""
	}
	text := "; there are"
	for _, i := range all {
		text += " " + i.Name
	}
	return text
}
