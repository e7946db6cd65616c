package bpf

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cilium/ebpf"
)

// Tables of the benchmarks have the sizes of the real ones.
const (
	benchFlows    = 131072
	benchNewFlows = benchFlows / 4
	benchSlots    = 16381
	benchServices = 1000
	// packetsARound go through each program in each round.
	packetsARound = 1 << 18
)

// measured is a case of the table: a target beside one that does nothing.
type measured struct {
	name          string
	target, floor *driver
	// most is how many E it may cost, 0 if nobody says.
	most float64
	// beside is what it may not cost 10 % more than.
	beside *measured
	// balancer counts; each packet has to make a new flow there, or none.
	balancer *balancer
	inserts  bool
	before   uint64

	times, floors []float64
}

// above are the rounds' times above the floor.
func (m *measured) above() []float64 {
	above := make([]float64, len(m.times))
	for i := range above {
		above[i] = m.times[i] - m.floors[i]
	}
	return above
}

// against is the median of the rounds' ratios: the machine's speed cancels out of it.
func (m *measured) against(other *measured) float64 {
	ratios, others := m.above(), other.above()
	for i := range ratios {
		ratios[i] /= others[i]
	}
	return median(ratios)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func (m *measured) round(t testing.TB) {
	m.floors = append(m.floors, m.floor.run(t, packetsARound))
	m.times = append(m.times, m.target.run(t, packetsARound))
}

// connections counts the flows that went into the connection table.
func (m *measured) connections(t testing.TB) (n uint64) {
	var each []LBTraffic
	must(t, m.balancer.objects.ServiceStats.Lookup(uint32(1), &each))
	for _, cpu := range each {
		n += cpu.Connections
	}
	return n
}

// checkInserts fails when packets were not new flows, or known ones, as the case says.
func (m *measured) checkInserts(t testing.TB) {
	want := 0.0
	if m.inserts {
		want = 1
	}
	share := float64(m.connections(t)-m.before) / float64(len(m.times)*packetsARound)
	if math.Abs(share-want) > 0.001 {
		t.Errorf("%s: %.4f of the packets made a new flow, want %.0f", m.name, share, want)
	}
}

// packetBench are the cases; a round of each takes turns with those of the others.
type packetBench struct {
	testing.TB
	noop *ebpf.Program
	list []*measured
}

func (b *packetBench) add(m *measured, target *ebpf.Program, verdict uint32, frame []byte, order flowOrder, restore, encap int) *measured {
	m.target = newDriver(b, target, verdict, frame, order, restore, encap)
	m.floor = newDriver(b, b.noop, xdpPass, frame, order, restore, encap)
	b.list = append(b.list, m)
	return m
}

// benchMode is a mode, how much of a frame it changes, and the limits in E.
type benchMode struct {
	name                               string
	mode                               LBLbMode
	restore                            int
	one, established, fresh, notForVIP float64
}

var benchModes = []benchMode{
	{"DSR", LBLbModeLB_MODE_DSR, 14, 6, 15, 40, 2.5},
	{"SNAT", LBLbModeLB_MODE_SNAT, 54, 8, 20, 90, 2.5},
}

// cases adds those of a mode with a number of services.
func (b *packetBench) cases(mode benchMode, services int) (one, established, fresh *measured) {
	name := func(what string) string {
		if services == 1 {
			return mode.name + ": " + what
		}
		return fmt.Sprintf("%s, %d services: %s", mode.name, services, what)
	}
	first := benchRequest("S").frame(b)
	later := benchRequest("A").frame(b)

	lb := benchBalancer(b, mode.mode, services, benchNewFlows)
	one = b.add(&measured{name: name("one established flow"), most: mode.one, balancer: lb}, lb.objects.Lb, xdpTX, later, oneFlow, mode.restore, 20)
	lb.forwardQuietly(first)
	one.target.run(b, 1000)

	// Each flow's second packet comes after all others' first ones: with less room than
	// that, first packets push one another out and no flow is ever established. A CPU
	// has its share of the table only.
	lb = benchBalancer(b, mode.mode, services, manyFlows*ebpf.MustPossibleCPU())
	established = b.add(&measured{name: name("65,536 established flows"), most: mode.established, balancer: lb}, lb.objects.Lb, xdpTX, later, flowsIn64k, mode.restore, 20)
	newDriver(b, lb.objects.Lb, xdpTX, first, flowsIn64k, mode.restore, 20).run(b, manyFlows)
	established.target.run(b, 2*manyFlows)

	lb = benchBalancer(b, mode.mode, services, benchNewFlows)
	fresh = b.add(&measured{name: name("new flow, inserted"), most: mode.fresh, balancer: lb, inserts: true}, lb.objects.Lb, xdpTX, first, newFlows, mode.restore, 20)
	fresh.target.run(b, 2*benchFlows) // from here on the tables are full
	return one, established, fresh
}

func (b *packetBench) notVIP(mode benchMode) {
	lb := benchBalancer(b, mode.mode, 1, benchNewFlows)
	other := benchRequest("A")
	other.to = netip.MustParseAddrPort("41.1.1.1:80")
	b.add(&measured{name: mode.name + ": packet to no VIP", most: mode.notForVIP, balancer: lb}, lb.objects.Lb, xdpPass, other.frame(b), oneFlow, 14, 20)
}

// ipv6 adds one established IPv6 flow.
func (b *packetBench) ipv6(mode benchMode) {
	lb := benchBalancer(b, mode.mode, 1, benchNewFlows)
	lb.serve(1, netip.AddrPortFrom(vip6, 80), uint8(tcp), mode.mode, benchSlots, 1, 2, 3, 4)
	restore := 14
	if mode.mode == LBLbModeLB_MODE_SNAT {
		restore += 40 + 20
	}
	m := b.add(&measured{name: mode.name + ", IPv6: one established flow", balancer: lb},
		lb.objects.Lb, xdpTX, overIPv6(benchRequest("A")).frame(b), oneFlow, restore, 40)
	lb.forwardQuietly(overIPv6(benchRequest("S")).frame(b))
	m.target.run(b, 1000)
}

func benchRequest(flags string) packet {
	p := request(40000, flags)
	p.payload = []byte("GET / HTTP/1.1\r\n\r\n")
	return p
}

// forwardQuietly sends a frame, and checks nothing but that it is forwarded.
func (b *balancer) forwardQuietly(frame []byte) {
	b.t.Helper()
	verdict, _, err := b.objects.Lb.Test(frame)
	must(b.t, err)
	if verdict != xdpTX {
		b.t.Fatalf("verdict %d", verdict)
	}
}

// benchBalancer serves the VIP with four backends, and others' VIPs if asked to.
func benchBalancer(t testing.TB, mode LBLbMode, services, newFlows int) *balancer {
	lb := newBalancerOf(t, func(maps map[string]*ebpf.MapSpec) {
		for _, name := range []string{LBMapFlows4, LBMapFlows6, LBMapNat4, LBMapNat6} {
			maps[name].MaxEntries = benchFlows
		}
		for _, name := range []string{LBMapNewFlows4, LBMapNewFlows6, LBMapNewNat4, LBMapNewNat6} {
			maps[name].MaxEntries = uint32(newFlows)
		}
		for _, name := range []string{LBMapServices, LBMapServiceStats, LBMapMaglev} {
			maps[name].MaxEntries = 2*benchServices + testServices
		}
	})
	lb.configure(func(c *LBLbConfig) { // flows outlive the run
		c.TcpEstablishedNs, c.TcpSynNs = uint64(8000*time.Second), uint64(8000*time.Second)
	})
	for n := 2; n <= services; n++ {
		other := netip.AddrFrom4([4]byte{40, 2, byte(n >> 8), byte(n)})
		lb.serve(uint32(n), netip.AddrPortFrom(other, 80), uint8(tcp), mode, 251, uint32(n%500+5))
	}
	lb.serve(1, web, uint8(tcp), mode, benchSlots, 1, 2, 3, 4)
	return lb
}

// BenchmarkPackets measures what a packet costs in each case that the issue names, above
// a target that does nothing, in nanoseconds and in E, the cost of a bare
// encapsulation of 20 bytes. An iteration is a round.
func BenchmarkPackets(b *testing.B) {
	requireRoot(b)
	defer stayOnOneCPU(b)()
	noop, err := ebpf.NewProgram(PassProgram())
	must(b, err)
	defer noop.Close()
	bench := &packetBench{TB: b, noop: noop}
	unit := bench.add(&measured{name: "bare encapsulation: E"}, bareEncap(b), xdpTX, benchRequest("A").frame(b), oneFlow, 14, 20)
	for _, mode := range benchModes {
		one, established, fresh := bench.cases(mode, 1)
		bench.notVIP(mode)
		for i, m := range asList(bench.cases(mode, benchServices)) {
			m.most, m.beside = 0, []*measured{one, established, fresh}[i]
		}
	}
	for _, mode := range benchModes {
		bench.ipv6(mode)
	}
	for _, m := range bench.list {
		if m.balancer != nil {
			m.before = m.connections(b)
		}
	}
	for b.Loop() {
		for _, m := range bench.list {
			m.round(b)
		}
	}
	b.ReportMetric(0, "ns/op") // would be all programs' times together: leave it out
	b.ReportMetric(median(unit.above()), "E-ns")
	for _, m := range bench.list {
		if m.balancer != nil {
			m.checkInserts(b)
		}
	}
	bench.print(unit)
}

func asList(a, b, c *measured) []*measured { return []*measured{a, b, c} }

func (b *packetBench) print(unit *measured) {
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "floor ns\tns above it\tquartiles\tE\tlimit, E\tof 1 service's\t  case")
	for _, m := range b.list {
		above := slices.Sorted(slices.Values(m.above()))
		limit, beside := "", ""
		if m.most > 0 {
			limit = fmt.Sprint(m.most)
		}
		if m.beside != nil {
			beside = fmt.Sprintf("%.2f", m.against(m.beside))
		}
		fmt.Fprintf(w, "%.1f\t%.1f\t%.1f-%.1f\t%.2f\t%s\t%s\t  %s\n", median(m.floors), median(above),
			above[len(above)/4], above[len(above)*3/4], m.against(unit), limit, beside, m.name)
	}
	_ = w.Flush()
}
