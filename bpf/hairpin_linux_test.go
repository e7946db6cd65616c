package bpf

import (
	"net/netip"
	"testing"
)

// fromBackend is a packet of backend 3, as a client of the service that it serves.
func fromBackend(flags string) packet {
	m := backendMAC(3)
	p := request(40000, flags)
	p.from, p.sourceMAC = netip.AddrPortFrom(backendAddress(3), 40000), m[:]
	return p
}

// TestABackendThatIsItsOwnClientIsTranslated, whatever the service's mode: in DSR
// it would get a packet from its own address, which its stack throws away.
func TestABackendThatIsItsOwnClientIsTranslated(t *testing.T) {
	for name, encap := range map[string]LBLbEncap{"IP-in-IP": LBLbEncapLB_ENCAP_IPIP, "layer 2": LBLbEncapLB_ENCAP_L2} {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer(t)
			b.changeBackend(3, func(e *LBBackend) { e.Encap = encap })
			for _, flags := range []string{"S", "S", "A", "A", "PA"} {
				p := fromBackend(flags)
				equalFrames(t, b.forward(p), translated(p, 40000, 3).frame(t))
				reply := answer(3, 40000, 6, "A")
				want := translatedBack(reply, web, p.from)
				want.destMAC = p.sourceMAC
				equalFrames(t, b.forward(reply), want.frame(t))
			}
			// A SYN amid the connection finds a flow of another mode than the service's.
			p := fromBackend("S")
			equalFrames(t, b.forward(p), translated(p, 40000, 3).frame(t))
			b.wantHalves(true, true)
			if got := total(b.counters().service).Connections; got != 1 {
				t.Errorf("%d connections counted, want 1", got)
			}
		})
	}
}

func TestABackendThatGetsAnotherOneIsServedAsTheServiceSays(t *testing.T) {
	b := dsrBalancer(t)
	b.moved(LBLbModeLB_MODE_DSR)
	p := fromBackend("S")
	m := backendMAC(4)
	equalFrames(t, b.forward(p), encapsulated(t, p.frame(t), lbMAC, m[:], lbAddress, backendAddress(4)))
	b.wantFlows(1, 0)
}

func TestAHairpinWithoutAnAddressOfTheBalancersOwnIsDropped(t *testing.T) {
	b := dsrBalancer(t)
	b.configure(func(c *LBLbConfig) { c.Address4 = 0 })
	b.drop(fromBackend("S").frame(t), "nat_exhausted")
	b.wantFlows(0, 0)
	b.forward(request(40000, "S")) // others go by DSR, which needs none
}

func TestAResetOfNoFlowFromABackendToItselfIsDropped(t *testing.T) {
	b := dsrBalancer(t)
	b.drop(fromBackend("R").frame(t), "no_flow")
	b.wantFlows(0, 0)
}
