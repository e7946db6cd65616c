package bpf

import "net/netip"

// overIPv6 is a client's packet with IPv6's client and VIP, the ports as they were.
func overIPv6(p packet) packet {
	p.from, p.to = netip.AddrPortFrom(client6, p.from.Port()), netip.AddrPortFrom(vip6, p.to.Port())
	p.id = 0
	return p
}

func backendPort6(id uint32) netip.AddrPort { return netip.AddrPortFrom(backendAddress6(id), 8080) }

// translated6 is what SNAT makes of a client's packet over IPv6.
func translated6(p packet, natPort uint16, backend uint32) packet {
	p = translated(p, natPort, backend)
	p.from, p.to = netip.AddrPortFrom(lbAddress6, natPort), backendPort6(backend)
	return p
}

// answer6 is a backend's packet to the balancer over IPv6.
func answer6(backend uint32, natPort uint16, proto uint8, flags string) packet {
	p := overIPv6(answer(backend, natPort, proto, flags))
	p.from, p.to = backendPort6(backend), netip.AddrPortFrom(lbAddress6, natPort)
	return p
}

func changed(p packet, change func(*packet)) packet {
	change(&p)
	return p
}
