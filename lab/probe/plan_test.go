package probe

import (
	"net/netip"
	"testing"

	"l4lab/agent/api"
)

func TestPortsInUseAreNotChosen(t *testing.T) {
	p := newPorts(40000)
	p.avoid([]api.Connection{
		{Source: netip.MustParseAddrPort("20.1.1.100:40000")},
		{Source: netip.MustParseAddrPort("20.1.1.101:12345"), NATPort: 40002},
		{Source: netip.AddrPortFrom(netip.MustParseAddr("20.1.1.100"), 12000+40000%12000)},
	})
	if a, b := p.pooled(), p.pooled(); a != 40001 || b != 40003 {
		t.Errorf("chose %d and %d, want 40001 and 40003", a, b)
	}
	if got := p.unpooled(); got != 12000+40000%12000+1 {
		t.Errorf("chose %d, which a connection holds", got)
	}
}

func TestPortsAreChosenThoughAllAreInUse(t *testing.T) {
	p := newPorts(40000)
	p.taken = map[uint16]bool{}
	for port := natPortMin; port <= natPortMax; port++ {
		p.taken[uint16(port)] = true
	}
	if got := p.pooled(); got < natPortMin {
		t.Errorf("chose %d, outside the pool", got)
	}
}
