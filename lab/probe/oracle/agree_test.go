package oracle_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"l4lab/agent/maglev"
	"l4lab/lab/probe/oracle"
)

// The oracle and the agent were written apart from each other and share no code:
// where they agree, both are likely to be right.
func TestOracleAndAgentAgree(t *testing.T) {
	random := rand.New(rand.NewPCG(20, 40))
	address := func(ipv6 bool, port uint16) netip.AddrPort {
		var raw [16]byte
		for i := range raw {
			raw[i] = byte(random.Uint32())
		}
		if ipv6 {
			return netip.AddrPortFrom(netip.AddrFrom16(raw), port)
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[:4])), port)
	}
	for _, size := range []uint32{251, 1021, 2039, 16381} {
		for _, heaviest := range []uint32{1, 2, 10, 1000} {
			for _, ipv6 := range []bool{false, true} {
				for _, protocol := range []uint8{6, 17} {
					name := fmt.Sprintf("slots=%d/weights=%d/ipv6=%v/protocol=%d", size, heaviest, ipv6, protocol)
					t.Run(name, func(t *testing.T) {
						var agents []maglev.Backend
						var oracles []oracle.Backend
						for i := range 1 + random.Uint32N(60) {
							b, weight := address(ipv6, uint16(random.Uint32())), random.Uint32N(heaviest+1)+1-min(i, 1)
							agents = append(agents, maglev.Backend{ID: i, Address: b, Protocol: protocol, Weight: weight})
							oracles = append(oracles, oracle.Backend{Address: b, Weight: uint64(weight)})
						}
						got, err := maglev.Table(agents, size)
						if err != nil {
							t.Fatal(err)
						}
						table, err := oracle.NewTable(size, map[uint8]string{6: "TCP", 17: "UDP"}[protocol], oracles)
						if err != nil {
							t.Fatal(err)
						}
						vip := address(ipv6, 80)
						for range 2000 {
							client := address(ipv6, uint16(random.Uint32()))
							affinity := random.IntN(2) == 0
							foretold := client
							if affinity {
								foretold = netip.AddrPortFrom(client.Addr(), 0)
							}
							want := table.Lookup(foretold, 80, protocol)
							id := got[maglev.Slot(client, vip, protocol, size, affinity)]
							if agents[id].Address != want {
								t.Fatalf("%s, affinity %v: the agent says %s, the oracle %s", client, affinity, agents[id].Address, want)
							}
						}
					})
				}
			}
		}
	}
}
