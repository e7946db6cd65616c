package relay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// Connect dials TCP, UDP and unix targets from this machine.
func (t Target) Connect(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	switch t.Network {
	case TCP, UDP:
	case Unix:
		if t.Local != "" {
			return nil, fmt.Errorf("a unix socket is dialled from no address, not from %s", t.Local)
		}
		return d.DialContext(ctx, t.Network, t.Address)
	default:
		return nil, fmt.Errorf("network %q is not one of %s, %s and %s", t.Network, TCP, UDP, Unix)
	}
	if t.Local != "" {
		local, err := netip.ParseAddrPort(t.Local)
		if err != nil {
			return nil, fmt.Errorf("local address %q: %w", t.Local, err)
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(local)
		if t.Network == UDP {
			d.LocalAddr = net.UDPAddrFromAddrPort(local)
		}
	}
	return d.DialContext(ctx, t.Network, t.Address)
}
