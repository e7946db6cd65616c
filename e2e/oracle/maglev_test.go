package oracle

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// known are the backends of the table that Cilium's own tests have.
var known = []Backend{
	{netip.MustParseAddrPort("0.0.0.1:1"), 2}, {netip.MustParseAddrPort("0.0.0.3:3"), 13},
	{netip.MustParseAddrPort("0.0.0.4:4"), 111}, {netip.MustParseAddrPort("0.0.0.5:5"), 10},
}

// knownTable is that table, as backend(times).
const knownTable = `
    2(5),3(1),2(3),1(1),2(2),0(1),2(1),3(1),2(1),3(1),2(1),1(1),2(7),1(1),2(14),3(1),2(1),1(2),2(12),3(1),
    2(3),1(1),2(4),3(1),2(8),3(1),2(2),1(1),2(16),1(2),2(3),3(1),2(11),1(2),2(4),3(1),2(3),1(1),2(4),3(1),
    2(1),0(1),1(1),2(8),1(1),2(7),1(1),2(4),3(1),2(1),3(1),2(9),1(2),2(5),1(1),2(7),3(1),2(1),3(1),1(1),
    2(8),1(1),2(4),0(1),2(1),1(1),2(5),3(1),2(3),1(1),2(4),3(1),2(3),1(1),2(12),0(1),3(1),2(3),3(1),2(4),
    3(1),2(2),1(1),2(7)`

func TestTheTableIsTheKnownOne(t *testing.T) {
	var want []netip.AddrPort
	for run := range strings.SplitSeq(knownTable, ",") {
		var backend, times int
		if _, err := fmt.Sscanf(strings.TrimSpace(run), "%d(%d)", &backend, &times); err != nil {
			t.Fatal(run, err)
		}
		for range times {
			want = append(want, known[backend].Address)
		}
	}
	got := Table(known, "TCP", 251)
	if len(want) != 251 || len(got) != 251 {
		t.Fatalf("%d slots, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("slot %d is %s, want %s", i, got[i], want[i])
		}
	}
}

func TestThePermutationsAreTheKnownOnes(t *testing.T) {
	for i, want := range [][2]uint64{{129, 67}, {122, 225}, {166, 219}, {100, 52}} {
		offset, skip := permutation(known[i].key("TCP"), 251)
		if offset != want[0] || skip != want[1] {
			t.Errorf("%s: offset %d and skip %d, want %v", known[i].Address, offset, skip, want)
		}
	}
}

func TestSlotsFollowTheWeights(t *testing.T) {
	backends := make([]Backend, 4)
	for i, weight := range []int{2, 13, 111, 10} {
		backends[i] = Backend{netip.AddrPortFrom(netip.AddrFrom4([4]byte{0, 0, 0, byte(i + 1)}), 0), weight}
	}
	// The known figures are of ports that nobody wrote down; they depend on the weights alone.
	count := map[netip.AddrPort]int{}
	for _, b := range Table(backends, "TCP", 1021) {
		count[b]++
	}
	for i, want := range []int{16, 98, 832, 75} {
		if got := count[backends[i].Address]; got != want {
			t.Errorf("weight %d has %d slots of 1021, want %d", backends[i].Weight, got, want)
		}
	}
	for _, b := range Table(append(backends, Backend{netip.MustParseAddrPort("0.0.0.9:9"), 0}), "TCP", 251) {
		if b.Port() == 9 {
			t.Fatal("a backend of weight 0 has a slot")
		}
	}
	if Table([]Backend{{Address: backends[0].Address}}, "TCP", 251) != nil {
		t.Error("a table of nobody")
	}
}

func TestRemovingOneOf100MovesFewOtherSlots(t *testing.T) {
	var backends []Backend
	for i := range 100 {
		backends = append(backends, Backend{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80), 1})
	}
	before, after := Table(backends, "TCP", 16381), Table(backends[1:], "TCP", 16381)
	moved, others := 0, 0
	for i := range before {
		if before[i] == backends[0].Address {
			continue
		}
		others++
		if before[i] != after[i] {
			moved++
		}
	}
	if share := float64(moved) / float64(others); share > 0.02 {
		t.Errorf("%.2f %% of the other slots moved, about 1.2 are known", 100*share)
	}
}

func TestTheHashTakesWhatItShall(t *testing.T) {
	flow := func(client, frontend string, protocol uint8) Flow {
		return Flow{netip.MustParseAddrPort(client), netip.MustParseAddrPort(frontend), protocol}
	}
	for name, base := range map[string]Flow{
		"IPv4": flow("20.1.1.100:40000", "40.1.1.1:80", TCP), "IPv6": flow("[fd00::100]:40000", "[fd00:40::1]:80", TCP),
	} {
		t.Run(name, func(t *testing.T) {
			other := base
			other.Protocol = UDP
			differs := map[string]Flow{"protocol": other}
			other = base
			other.Client = netip.AddrPortFrom(base.Client.Addr(), 40001)
			differs["client's port"] = other
			sport := other
			other = base
			other.Client = netip.AddrPortFrom(base.Client.Addr().Next(), 40000)
			differs["client's address"] = other
			other = base
			other.Frontend = netip.AddrPortFrom(base.Frontend.Addr(), 81)
			differs["port"] = other
			for what, f := range differs {
				if f.Hash(false) == base.Hash(false) {
					t.Errorf("another %s, and the same hash", what)
				}
			}
			if sport.Hash(true) != base.Hash(true) {
				t.Error("the client's port counts under affinity")
			}
			other = base
			other.Frontend = netip.AddrPortFrom(base.Frontend.Addr().Next(), 80)
			if other.Hash(false) != base.Hash(false) {
				t.Error("the VIP counts")
			}
		})
	}
}
