package oracle

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func weightedTable(t *testing.T, size uint32, backends ...Backend) Table {
	t.Helper()
	table, err := NewTable(size, "TCP", backends)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func backend(address string, weight uint64) Backend {
	return Backend{Address: netip.MustParseAddrPort(address), Weight: weight}
}

// The known tables are of Cilium's own tests, with Cilium's default seed.
func TestTableIsTheOneThatCiliumComputes(t *testing.T) {
	const known = "2(5),3(1),2(3),1(1),2(2),0(1),2(1),3(1),2(1),3(1),2(1),1(1),2(7),1(1),2(14),3(1),2(1),1(2),2(12),3(1)," +
		"2(3),1(1),2(4),3(1),2(8),3(1),2(2),1(1),2(16),1(2),2(3),3(1),2(11),1(2),2(4),3(1),2(3),1(1),2(4),3(1)," +
		"2(1),0(1),1(1),2(8),1(1),2(7),1(1),2(4),3(1),2(1),3(1),2(9),1(2),2(5),1(1),2(7),3(1),2(1),3(1),1(1)," +
		"2(8),1(1),2(4),0(1),2(1),1(1),2(5),3(1),2(3),1(1),2(4),3(1),2(3),1(1),2(12),0(1),3(1),2(3),3(1),2(4)," +
		"3(1),2(2),1(1),2(7)"
	// In an order of their own: the table must not depend on it.
	table := weightedTable(t, 251, backend("0.0.0.4:4", 111), backend("0.0.0.1:1", 2), backend("0.0.0.5:5", 10), backend("0.0.0.3:3", 13))
	if got := runLengths(table.slots); got != known {
		t.Errorf("table of 251 slots:\n got %s\nwant %s", got, known)
	}
}

func TestLargerTableHasTheKnownShares(t *testing.T) {
	table := weightedTable(t, 1021, backend("0.0.0.1:1", 2), backend("0.0.0.2:2", 13), backend("0.0.0.3:3", 111), backend("0.0.0.4:4", 10))
	shares := make([]int, 4)
	for _, i := range table.slots {
		shares[i]++
	}
	if want := []int{16, 98, 832, 75}; !slices.Equal(shares, want) {
		t.Errorf("slots per backend: %v, want %v", shares, want)
	}
}

func runLengths(slots []int) string {
	var runs []string
	for i := 0; i < len(slots); {
		n := 1
		for i+n < len(slots) && slots[i+n] == slots[i] {
			n++
		}
		runs = append(runs, fmt.Sprintf("%d(%d)", slots[i], n))
		i += n
	}
	return strings.Join(runs, ",")
}

func TestEqualWeightsShareTheSlotsEvenly(t *testing.T) {
	table := weightedTable(t, 16381, backend("20.1.1.10:80", 1), backend("20.1.1.20:80", 1), backend("20.1.1.30:80", 1), backend("20.1.1.40:80", 1))
	shares := make([]int, 4)
	for _, i := range table.slots {
		shares[i]++
	}
	if slices.Max(shares)-slices.Min(shares) > 1 {
		t.Errorf("shares %v, want a difference of one at most", shares)
	}
	if len(table.Backends()) != 4 {
		t.Errorf("backends with a slot: %v", table.Backends())
	}
}

func TestMurmurMatchesThePublishedVectors(t *testing.T) {
	// Offsets and skips of Cilium's tests at M = 251.
	for key, want := range map[string][2]uint64{
		"0.0.0.1:1": {129, 67}, "0.0.0.3:3": {122, 225}, "0.0.0.4:4": {166, 219}, "0.0.0.5:5": {100, 52},
	} {
		h1, h2 := murmur3([]byte("["+key+"/TCP,State:active]"), murmurSeed)
		if got := [2]uint64{h1 % 251, h2%250 + 1}; got != want {
			t.Errorf("%s: offset and skip %v, want %v", key, got, want)
		}
	}
	// MurmurHash3_x64_128 of nothing with seed 0 is 0, and a well-known sentence's.
	if h1, h2 := murmur3(nil, 0); h1 != 0 || h2 != 0 {
		t.Errorf("murmur3 of nothing = %x %x, want 0 0", h1, h2)
	}
	h1, h2 := murmur3([]byte("The quick brown fox jumps over the lazy dog"), 0)
	if h1 != 0xe34bbc7bbc071b6c || h2 != 0x7a433ca9c49a9347 {
		t.Errorf("murmur3 of the fox = %x %x, want e34bbc7bbc071b6c 7a433ca9c49a9347", h1, h2)
	}
}

// lookup3's hashlittle over a text of 30 bytes is published with its result.
func TestMixingIsThatOfLookup3(t *testing.T) {
	text := append([]byte("Four score and seven years ago"), make([]byte, 6)...)
	a := uint32(jhashInit + 30)
	b, c := a, a
	words := func() {
		a += binary.LittleEndian.Uint32(text)
		b += binary.LittleEndian.Uint32(text[4:])
		c += binary.LittleEndian.Uint32(text[8:])
		text = text[12:]
	}
	words()
	a, b, c = jhashMix(a, b, c)
	words()
	a, b, c = jhashMix(a, b, c)
	words()
	if got := jhashFinal(a, b, c); got != 0x17770551 {
		t.Errorf("lookup3 = %#x, want 0x17770551", got)
	}
}

// Results of Cilium's hash_from_tuple_v4 and hash_from_tuple_v6, its C compiled and run.
func TestFlowHashIsTheOneThatCiliumComputes(t *testing.T) {
	for _, c := range []struct {
		client   string
		port     uint16
		protocol uint8
		want     uint32
	}{
		{"20.1.1.100:40000", 80, 6, 0x39367f09},
		{"20.1.1.100:0", 80, 6, 0x84e2674a},
		{"255.255.255.255:65535", 53, 17, 0x0e844ae6},
		{"[fd20::100]:40000", 80, 6, 0xb32c4567},
		{"[fd20::100]:0", 80, 6, 0xb6c60678},
		{"[2001:db8:1:2:3:4:5:6]:65535", 53, 17, 0x941bbf8f},
		{"[::ffff:20.1.1.100]:40000", 80, 6, 0xd93b6364},
	} {
		if got := flowHash(netip.MustParseAddrPort(c.client), c.port, c.protocol); got != c.want {
			t.Errorf("%s to port %d, protocol %d: %#08x, want %#08x", c.client, c.port, c.protocol, got, c.want)
		}
	}
}

func TestFlowsOfManyPortsReachEveryBackend(t *testing.T) {
	for _, c := range []struct{ family, client, backends string }{
		{"IPv4", "20.1.1.100", "20.1.1.%d0:80"},
		{"IPv6", "fd20::100", "[fd20::%d0]:80"},
	} {
		t.Run(c.family, func(t *testing.T) {
			var backends []Backend
			for i := range 4 {
				backends = append(backends, backend(fmt.Sprintf(c.backends, i+1), 1))
			}
			table := weightedTable(t, 16381, backends...)
			hits := map[netip.AddrPort]int{}
			for port := uint16(40000); port < 41000; port++ {
				hits[table.Lookup(netip.AddrPortFrom(netip.MustParseAddr(c.client), port), 80, 6)]++
			}
			for b, n := range hits {
				if n < 150 || n > 350 {
					t.Errorf("%s got %d of 1000 flows", b, n)
				}
			}
			if len(hits) != 4 {
				t.Errorf("reached %v", hits)
			}
		})
	}
}

func TestBackendOfWeightZeroGetsNoSlot(t *testing.T) {
	with := weightedTable(t, 251, backend("20.1.1.10:80", 3), backend("20.1.1.20:80", 0), backend("20.1.1.30:80", 5))
	without := weightedTable(t, 251, backend("20.1.1.10:80", 3), backend("20.1.1.30:80", 5))
	if !slices.Equal(with.slots, without.slots) || !slices.Equal(with.backends, without.backends) {
		t.Error("it changes the table of the others")
	}
}

func TestTableNeedsBackendsAndSlotsForThem(t *testing.T) {
	if _, err := NewTable(251, "TCP", nil); err == nil {
		t.Error("no backends: want an error")
	}
	if _, err := NewTable(251, "TCP", []Backend{backend("1.2.3.4:80", 0)}); err == nil {
		t.Error("no backend with a weight: want an error")
	}
	if _, err := NewTable(3, "TCP", slices.Repeat([]Backend{backend("1.2.3.4:80", 1)}, 4)); err == nil {
		t.Error("more backends than slots: want an error")
	}
}
