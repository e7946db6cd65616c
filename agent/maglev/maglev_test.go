package maglev

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const tcp = 6

// fourWeighted are the backends of the known tables.
var fourWeighted = []Backend{
	{ID: 0, Address: netip.MustParseAddrPort("0.0.0.1:1"), Protocol: tcp, Weight: 2},
	{ID: 1, Address: netip.MustParseAddrPort("0.0.0.3:3"), Protocol: tcp, Weight: 13},
	{ID: 2, Address: netip.MustParseAddrPort("0.0.0.4:4"), Protocol: tcp, Weight: 111},
	{ID: 3, Address: netip.MustParseAddrPort("0.0.0.5:5"), Protocol: tcp, Weight: 10},
}

// known251 is the table of fourWeighted at 251 slots: backend(times).
const known251 = `2(5),3(1),2(3),1(1),2(2),0(1),2(1),3(1),2(1),3(1),2(1),1(1),2(7),1(1),2(14),3(1),2(1),1(2),2(12),3(1),
2(3),1(1),2(4),3(1),2(8),3(1),2(2),1(1),2(16),1(2),2(3),3(1),2(11),1(2),2(4),3(1),2(3),1(1),2(4),3(1),
2(1),0(1),1(1),2(8),1(1),2(7),1(1),2(4),3(1),2(1),3(1),2(9),1(2),2(5),1(1),2(7),3(1),2(1),3(1),1(1),
2(8),1(1),2(4),0(1),2(1),1(1),2(5),3(1),2(3),1(1),2(4),3(1),2(3),1(1),2(12),0(1),3(1),2(3),3(1),2(4),
3(1),2(2),1(1),2(7)`

func TestTableIsTheKnownOne(t *testing.T) {
	got, err := Table(fourWeighted, 251)
	if err != nil {
		t.Fatal(err)
	}
	if want := expand(t, known251); !slices.Equal(got, want) {
		t.Errorf("table differs\n got %v\nwant %v", got, want)
	}
}

func TestTableDoesNotDependOnTheOrderOfBackends(t *testing.T) {
	reversed := slices.Clone(fourWeighted)
	slices.Reverse(reversed)
	got, err := Table(reversed, 251)
	if err != nil {
		t.Fatal(err)
	}
	if want := expand(t, known251); !slices.Equal(got, want) {
		t.Errorf("table differs\n got %v\nwant %v", got, want)
	}
}

func TestSharesFollowTheWeights(t *testing.T) {
	backends := slices.Clone(fourWeighted)
	for i := range backends {
		backends[i].Address = netip.MustParseAddrPort(fmt.Sprintf("0.0.0.%d:%d", i+1, i+1))
	}
	got, err := Table(backends, 1021)
	if err != nil {
		t.Fatal(err)
	}
	if shares, want := count(got, 4), []int{16, 98, 832, 75}; !slices.Equal(shares, want) {
		t.Errorf("slots per backend: got %v, want %v", shares, want)
	}
}

func TestOffsetAndSkip(t *testing.T) {
	var b Builder
	if err := b.sort(fourWeighted); err != nil {
		t.Fatal(err)
	}
	b.begin(fourWeighted, 251)
	want := [][2]uint32{{129, 67}, {122, 225}, {166, 219}, {100, 52}}
	for i, c := range b.candidates {
		if got := [2]uint32{c.slot, c.step[1]}; got != want[i] {
			t.Errorf("%s: offset and skip are %v, want %v", b.key(b.order[i]), got, want[i])
		}
	}
}

func TestEveryBackendGetsItsShareAtEverySize(t *testing.T) {
	for _, size := range Sizes() {
		const n = 200
		got, err := Table(backends(n), size)
		if err != nil {
			t.Fatal(err)
		}
		for id, slots := range count(got, n) {
			if slots != int(size)/n && slots != int(size)/n+1 {
				t.Errorf("%d slots: backend %d has %d, want %d or one more", size, id, slots, size/n)
			}
		}
	}
}

func TestWeightZeroGetsNoSlot(t *testing.T) {
	b := backends(3)
	b[1].Weight = 0
	got, err := Table(b, 251)
	if err != nil {
		t.Fatal(err)
	}
	if slots := count(got, 3); slots[1] != 0 || slots[0]+slots[2] != 251 {
		t.Errorf("slots per backend: %v", slots)
	}
}

// The figure is the measured disruption of this algorithm: 1.215 % of the other slots move.
func TestRemovingOneOfAHundredMovesFewOtherSlots(t *testing.T) {
	all := backends(100)
	before, err := Table(all, 16381)
	if err != nil {
		t.Fatal(err)
	}
	after, err := Table(slices.Delete(slices.Clone(all), 50, 51), 16381)
	if err != nil {
		t.Fatal(err)
	}
	var moved, others int
	for slot, id := range before {
		if id == 50 {
			continue
		}
		others++
		if after[slot] != id {
			moved++
		}
	}
	if share := float64(moved) / float64(others); share == 0 || share > 0.03 {
		t.Errorf("%d of %d other slots moved (%.2f %%)", moved, others, 100*share)
	}
}

func TestTableRefuses(t *testing.T) {
	weightless := backends(2)
	weightless[0].Weight, weightless[1].Weight = 0, 0
	twice := backends(2)
	twice[1].Address = twice[0].Address
	sentinel := backends(1)
	sentinel[0].ID = noID
	for _, c := range []struct {
		name     string
		backends []Backend
		size     uint32
		want     string
	}{
		{"a size that is no prime of the list", backends(1), 16384, "16384 slots: not one of"},
		{"size zero", backends(1), 0, "not one of"},
		{"no backends", nil, 251, "no backend with a weight"},
		{"backends that all have weight zero", weightless, 251, "no backend with a weight"},
		{"more backends than slots", backends(252), 251, "252 backends do not fit into 251 slots"},
		{"the same backend twice", twice, 251, "is there twice"},
		{"an id that marks free slots", sentinel, 251, "marks a free slot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Table(c.backends, c.size)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestKeyIsCiliums(t *testing.T) {
	for _, c := range []struct {
		address  string
		protocol uint8
		want     string
	}{
		{"1.2.3.4:80", 6, "[1.2.3.4:80/TCP,State:active]"},
		{"1.2.3.4:53", 17, "[1.2.3.4:53/UDP,State:active]"},
		{"1.2.3.4:9899", 132, "[1.2.3.4:9899/SCTP,State:active]"},
		{"1.2.3.4:1", 47, "[1.2.3.4:1/47,State:active]"},
		{"[fd00::1]:80", 6, "[[fd00::1]:80/TCP,State:active]"},
		{"[2001:db8:0:0:1:0:0:1]:65535", 17, "[[2001:db8::1:0:0:1]:65535/UDP,State:active]"},
	} {
		if got := Key(netip.MustParseAddrPort(c.address), c.protocol); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func backends(n int) []Backend {
	list := make([]Backend, n)
	for i := range list {
		address := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		list[i] = Backend{ID: uint32(i), Address: netip.AddrPortFrom(address, 80), Protocol: tcp, Weight: 1}
	}
	return list
}

func count(table []uint32, n int) []int {
	slots := make([]int, n)
	for _, id := range table {
		slots[id]++
	}
	return slots
}

// expand reads the run-length form of the known table.
func expand(t *testing.T, runs string) []uint32 {
	t.Helper()
	var table []uint32
	for _, run := range regexp.MustCompile(`(\d+)\((\d+)\)`).FindAllStringSubmatch(runs, -1) {
		id, _ := strconv.Atoi(run[1])
		times, _ := strconv.Atoi(run[2])
		table = append(table, slices.Repeat([]uint32{uint32(id)}, times)...)
	}
	if len(table) != 251 {
		t.Fatalf("the known table has %d slots", len(table))
	}
	return table
}
