package maglev

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/murmur3"
)

// plainTable is the facts' description of Cilium's algorithm, word for word: no
// windows, no turns foretold, every position of a walk by multiplication.
func plainTable(backends []Backend, size uint32) []uint32 {
	type walker struct {
		key             string
		id              uint32
		offset, skip, j uint64
		weight          uint64
		counter         float64
	}
	var walkers []walker
	for _, b := range backends {
		if b.Weight > 0 {
			key := Key(b.Address, b.Protocol)
			h1, h2 := murmur3.SeedStringSum128(murmurSeed, murmurSeed, key)
			walkers = append(walkers, walker{
				key: key, id: b.ID, weight: uint64(b.Weight),
				offset: h1 % uint64(size), skip: h2%uint64(size-1) + 1,
			})
		}
	}
	slices.SortFunc(walkers, func(a, b walker) int { return strings.Compare(a.key, b.key) })
	count := uint64(len(walkers))
	var sum uint64
	for i := range walkers {
		sum += walkers[i].weight
		walkers[i].counter = float64(walkers[i].weight) / float64(count)
	}
	table := slices.Repeat([]uint32{noID}, int(size))
	for n := range uint64(size) {
		w := &walkers[n%count]
		for i := n; sum/count > 1; i++ {
			if w = &walkers[i%count]; (n+1)*w.weight >= uint64(w.counter) {
				w.counter += float64(sum)
				break
			}
		}
		position := func() uint64 { return (w.offset + w.j*w.skip) % uint64(size) }
		for table[position()] != noID {
			w.j++
		}
		table[position()] = w.id
		w.j++
	}
	return table
}

func TestTableIsThatOfThePlainAlgorithm(t *testing.T) {
	one := func(int) uint32 { return 1 }
	random := rand.New(rand.NewPCG(251, 131071))
	for _, c := range []struct {
		name    string
		n       int
		weights func(i int) uint32
		sizes   []uint32
	}{
		{"one backend", 1, one, Sizes()},
		{"one backend with a weight", 1, func(int) uint32 { return 7 }, Sizes()},
		{"two backends", 2, one, Sizes()},
		{"fewer backends than a window", 5, one, Sizes()},
		{"two hundred backends", 200, one, Sizes()},
		{"as many backends as slots", 251, one, []uint32{251}},
		{"equal weights above 1", 10, func(int) uint32 { return 3 }, []uint32{251, 16381}},
		{"a mean weight just below 2, which does not count", 10, func(i int) uint32 { return 1 + uint32(min(i, 1)) }, []uint32{251, 16381}},
		{"weights of 1 to 100", 100, func(i int) uint32 { return uint32(i + 1) }, Sizes()},
		{"one heavy backend among light ones", 100, func(i int) uint32 { return 1 + uint32(i/99)*10000 }, []uint32{251, 16381}},
		{"weights of 0 in between", 50, func(i int) uint32 { return uint32(i%3) * 4 }, []uint32{251, 16381}},
		{"the largest weights", 100, func(i int) uint32 { return math.MaxUint32 - uint32(i) }, []uint32{251, 131071}},
		{"the largest weight beside the smallest", 3, func(i int) uint32 { return []uint32{1, math.MaxUint32, 2}[i] }, []uint32{251, 131071}},
		{"random weights", 300, func(int) uint32 { return random.Uint32N(1000) }, []uint32{509, 16381, 131071}},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := backends(c.n)
			for i := range list {
				list[i].Weight = c.weights(i)
			}
			for _, size := range c.sizes {
				got, err := Table(list, size)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, plainTable(list, size)) {
					t.Errorf("%d slots: the table is another", size)
				}
			}
		})
	}
}

func FuzzTable(f *testing.F) {
	f.Add(uint64(1), uint16(10), uint8(0), uint32(1))
	f.Add(uint64(2), uint16(200), uint8(2), uint32(100))
	f.Add(uint64(3), uint16(3), uint8(1), uint32(math.MaxUint32))
	f.Fuzz(func(t *testing.T, seed uint64, n uint16, which uint8, heaviest uint32) {
		random := rand.New(rand.NewPCG(seed, 0))
		list := randomBackends(random, 1+int(n)%400)
		for i := range list {
			list[i].Weight = 1 + random.Uint32N(max(heaviest, 1))
		}
		size := sizes[int(which)%4]
		got, err := Table(list, size)
		if len(list) > int(size) {
			if err == nil {
				t.Fatal("more backends than slots: want an error")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, plainTable(list, size)) {
			t.Error("the table is not that of the plain algorithm")
		}
	})
}

// A builder must carry nothing over from one table to the next.
func TestBuilderFillsTablesOfAnySizeOneAfterTheOther(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var b Builder
	for range 50 {
		size := sizes[random.IntN(7)]
		list := randomBackends(random, 1+random.IntN(200))
		for i := range list {
			list[i].Weight = random.Uint32N(4) + 1
		}
		got := make([]uint32, size)
		if err := b.Fill(got, list); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, plainTable(list, size)) {
			t.Fatalf("%d backends, %d slots: the table is another", len(list), size)
		}
	}
}

func TestRefusedFillLeavesTheTableAsItWas(t *testing.T) {
	table := slices.Repeat([]uint32{7}, 251)
	twice := backends(2)
	twice[1].Address = twice[0].Address
	var b Builder
	for _, list := range [][]Backend{nil, twice, backends(252)} {
		if err := b.Fill(table, list); err == nil {
			t.Fatal("want an error")
		}
	}
	if err := b.Fill(table[:250], backends(1)); err == nil || !strings.Contains(err.Error(), "250 slots: not one of") {
		t.Errorf("250 slots: got %v", err)
	}
	if slices.ContainsFunc(table, func(id uint32) bool { return id != 7 }) {
		t.Error("the table was written to")
	}
}

func TestFillingAgainAllocatesNothing(t *testing.T) {
	all := backends(1000)
	weighted := backends(1000)
	for i := range weighted {
		weighted[i].Weight = uint32(1 + i%100)
	}
	table := make([]uint32, 16381)
	var b Builder
	fill := func() {
		for _, list := range [][]Backend{all, weighted, all[:10]} {
			if err := b.Fill(table, list); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Fill(table[:251], weighted[:100]); err != nil {
			t.Fatal(err)
		}
	}
	fill() // the builder takes its memory
	if n := testing.AllocsPerRun(3, fill); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTableAllocatesNothingPerSlotOrBackend(t *testing.T) {
	few, many := backends(10), backends(1000)
	small := testing.AllocsPerRun(3, func() { _, _ = Table(few, 251) })
	large := testing.AllocsPerRun(3, func() { _, _ = Table(many, 131071) })
	// The race detector adds an allocation or two of its own.
	if large > small+5 {
		t.Errorf("%v allocations for 10 backends in 251 slots, %v for 1000 in 131071", small, large)
	}
}

// BenchmarkTable measures rebuilds, each of another set of backends: a processor
// learns the branches of one table by heart when it is built again and again.
func BenchmarkTable(b *testing.B) {
	one := func(int) uint32 { return 1 }
	for _, c := range []struct {
		n       int
		size    uint32
		weights string
		weight  func(i int) uint32
	}{
		{10, 1021, "", one},
		{10, 16381, "", one},
		{100, 16381, "", one},
		{1000, 16381, "", one},
		{1000, 131071, "", one},
		{10, 16381, "/weights=1to100", func(i int) uint32 { return uint32(1 + i*7919%100) }},
		{1000, 16381, "/weights=1to100", func(i int) uint32 { return uint32(1 + i*7919%100) }},
		// Nearly every backend is passed over at nearly every step.
		{1000, 131071, "/weights=1and10000", func(i int) uint32 { return 1 + uint32(i/999)*9999 }},
	} {
		b.Run(fmt.Sprintf("backends=%d/slots=%d%s", c.n, c.size, c.weights), func(b *testing.B) {
			lists := make([][]Backend, 32)
			for k := range lists {
				lists[k] = backends(c.n)
				for i := range lists[k] {
					address := netip.AddrFrom4([4]byte{10, byte(k), byte(i >> 8), byte(i)})
					lists[k][i].Address = netip.AddrPortFrom(address, 80)
					lists[k][i].Weight = c.weight(i)
				}
			}
			table := make([]uint32, c.size)
			var builder Builder
			k := 0
			fill := func() {
				if err := builder.Fill(table, lists[k%len(lists)]); err != nil {
					b.Fatal(err)
				}
				k++
			}
			fill()
			b.ReportAllocs()
			for b.Loop() {
				fill()
			}
		})
	}
}

// randomBackends are of both families, with ids of their own.
func randomBackends(random *rand.Rand, n int) []Backend {
	list := make([]Backend, n)
	for i := range list {
		var raw [16]byte
		for k := range raw {
			raw[k] = byte(random.Uint32())
		}
		address := netip.AddrFrom16(raw)
		if random.IntN(2) == 0 {
			address = netip.AddrFrom4([4]byte(raw[:4]))
		}
		list[i] = Backend{
			ID: uint32(i) + 1, Address: netip.AddrPortFrom(address, uint16(i)), Protocol: []uint8{6, 17}[random.IntN(2)], Weight: 1,
		}
	}
	return list
}
