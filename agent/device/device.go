// Package device reads the network interface that the balancer works on, and
// follows what changes of it.
package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Device is an interface as the data path needs it.
type Device struct {
	Name  string
	Index int
	// MTU is in bytes of IP.
	MTU int
	MAC [6]byte
	// Address4 and Address6 are the balancer's own; one of them may be invalid.
	Address4, Address6 netip.Addr
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

// Read reads the interface name. Of each family, the balancer's address is the
// one that is asked for, which must be the interface's, else the interface's first:
// of IPv6, the first that is of more than one link. What the caller asked for and
// cannot be is ErrUnusable.
func Read(name string, asked ...netip.Addr) (Device, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return Device{}, unusable{fmt.Errorf("interface %q: %w%s", name, err, presentNames())}
	}
	d := Device{Name: i.Name, Index: i.Index, MTU: i.MTU}
	if len(i.HardwareAddr) != len(d.MAC) {
		return Device{}, unusable{fmt.Errorf("interface %q has no Ethernet address: only Ethernet interfaces are balanced on", name)}
	}
	d.MAC = [6]byte(i.HardwareAddr)
	addresses, err := addressesOf(i)
	if err != nil {
		return Device{}, err
	}
	if len(addresses) == 0 {
		return Device{}, unusable{fmt.Errorf("interface %q has no address, of neither IPv4 nor IPv6", name)}
	}
	for _, a := range asked {
		if !slices.Contains(addresses, a) {
			return Device{}, unusable{fmt.Errorf("interface %q does not have the address %s, only %v", name, a, addresses)}
		}
		if has := d.own(a); has.IsValid() {
			return Device{}, unusable{fmt.Errorf("%s and %s are of one family: the balancer uses one address of each", *has, a)}
		}
		*d.own(a) = a
	}
	for _, a := range addresses {
		if own := d.own(a); !own.IsValid() {
			*own = a
		}
	}
	return d, nil
}

// own is the balancer's address of a's family.
func (d *Device) own(a netip.Addr) *netip.Addr {
	if a.Is4() {
		return &d.Address4
	}
	return &d.Address6
}

// Addresses names the balancer's own, for people.
func (d Device) Addresses() string {
	switch {
	case !d.Address6.IsValid():
		return d.Address4.String()
	case !d.Address4.IsValid():
		return d.Address6.String()
	}
	return fmt.Sprintf("%s and %s", d.Address4, d.Address6)
}

// addressesOf returns the addresses that can be the balancer's own.
func addressesOf(i *net.Interface) ([]netip.Addr, error) {
	all, err := i.Addrs()
	if err != nil {
		return nil, fmt.Errorf("read the addresses of interface %q: %w", i.Name, err)
	}
	var own []netip.Addr
	for _, a := range all {
		prefix, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		address, ok := netip.AddrFromSlice(prefix.IP)
		if address = address.Unmap(); ok && (address.Is4() || address.IsGlobalUnicast()) {
			own = append(own, address)
		}
	}
	return own, nil
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
