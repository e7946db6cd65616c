package path

import (
	"errors"
	"fmt"
	"net/netip"

	"l4lab/agent/health"
)

// The defaults of Options. The ports lie below SNAT's pool, 32768 to 65535.
const (
	defaultFirstPort   = 28000
	defaultLastPort    = 28999
	defaultConcurrency = 256
)

func (o Options) complete() (Options, error) {
	if o.FirstPort == 0 && o.LastPort == 0 {
		o.FirstPort, o.LastPort = defaultFirstPort, defaultLastPort
	}
	if o.Concurrency == 0 {
		o.Concurrency = defaultConcurrency
	}
	if o.FirstPort == 0 || o.FirstPort > o.LastPort {
		return o, fmt.Errorf("source ports %d to %d: no such range", o.FirstPort, o.LastPort)
	}
	if len(o.Addresses) == 0 {
		return o, errors.New("no address of the balancer given")
	}
	families := make(map[bool]bool)
	for _, a := range o.Addresses {
		if !a.IsValid() || a.Is4In6() || a.IsUnspecified() || families[a.Is4()] {
			return o, fmt.Errorf("addresses %v: wanted is at most one of IPv4 and one of IPv6", o.Addresses)
		}
		families[a.Is4()] = true
	}
	return o, nil
}

// describe is how errors begin: what was attempted.
func describe(t health.Target) string {
	way := fmt.Sprintf("%s through %s (%s)", t.VIP, t.Backend.Addr(), t.Encap)
	if t.HTTP {
		return fmt.Sprintf("GET http://%s%s through %s (%s)", t.VIP, t.Path, t.Backend.Addr(), t.Encap)
	}
	return "connect to " + way
}

// outerSource is the outer header's source: the service's, or the balancer's
// own. Of a prefix the free bits are taken from a hash, as the data path does for a flow.
func outerSource(t health.Target, own netip.Addr, hash uint32) (netip.Addr, error) {
	if t.OuterSource == "" {
		return own, nil
	}
	if a, err := netip.ParseAddr(t.OuterSource); err == nil {
		return a, sameFamily(a, own)
	}
	p, err := netip.ParsePrefix(t.OuterSource)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("outer source %q is neither an address nor a prefix", t.OuterSource)
	}
	bytes := p.Masked().Addr().AsSlice()
	free := p.Addr().BitLen() - p.Bits()
	for i := range min(free, 32) {
		if hash>>i&1 != 0 {
			bytes[len(bytes)-1-i/8] |= 1 << (i % 8)
		}
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a, sameFamily(a, own)
}

func sameFamily(a, own netip.Addr) error {
	if a.Is4() != own.Is4() {
		return fmt.Errorf("outer source %s and the balancer's address %s are of two families", a, own)
	}
	return nil
}
