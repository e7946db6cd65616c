package bpf

import (
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"
)

// natFlood asks for ports, one flow after another, as fast as tests can.
type natFlood struct {
	b     *balancer
	frame []byte
	next  uint32
	// taken are the ports that flows got, by number.
	taken map[uint16]uint32
}

// natPool is a balancer whose pool has so many ports and whose tables hold them
// all; only new flows are made, so the other tables stay small.
func natPool(t *testing.T, ports uint32) *natFlood {
	b := newBalancerOf(t, func(maps map[string]*ebpf.MapSpec) {
		// An LRU gives each CPU some entries in advance: leave room.
		maps[LBMapNewFlows4].MaxEntries = 3 * ports
		maps[LBMapNewNat4].MaxEntries = 3 * ports
	})
	b.serveBoth(LBLbModeLB_MODE_SNAT, 3)
	b.configure(func(c *LBLbConfig) { c.NatMin, c.NatMax = natMin, uint16(natMin+ports-1) })
	return &natFlood{b: b, frame: request(1, "S").frame(t), taken: map[uint16]uint32{}}
}

// flow sends the SYN of client number n from a port, and returns the port that it got.
func (f *natFlood) flow(n uint32, from uint16) (port uint16, ok bool) {
	f.b.t.Helper()
	binary.BigEndian.PutUint32(f.frame[26:], 0x0a000000+n)
	binary.BigEndian.PutUint16(f.frame[34:], from)
	verdict, out, err := f.b.objects.Lb.Test(f.frame)
	must(f.b.t, err)
	switch verdict {
	case xdpTX:
		return sourcePort(out), true
	case xdpDrop:
		return 0, false
	}
	f.b.t.Fatalf("verdict %d", verdict)
	return 0, false
}

// open makes another flow, from a port outside the pool.
func (f *natFlood) open() bool {
	f.b.t.Helper()
	f.next++
	got, ok := f.flow(f.next, 1024)
	if !ok {
		return false
	}
	if owner, twice := f.taken[got]; twice {
		f.b.t.Fatalf("port %d belongs to client %d and to client %d", got, owner, f.next)
	}
	if got < f.b.config.NatMin || got > f.b.config.NatMax {
		f.b.t.Fatalf("port %d is outside the pool", got)
	}
	f.taken[got] = f.next
	return true
}

// closeOne forgets the flow that has a port, as the agent's sweep does when it is over.
func (f *natFlood) closeOne(natPort uint16) {
	f.b.t.Helper()
	client := LBFlow4{Saddr: networkOrder(0x0a000000 + f.taken[natPort]), Daddr: wire(vip).Word[0], Sport: port(1024), Dport: port(80), Proto: 6}
	must(f.b.t, f.b.objects.NewFlows4.Delete(client))
	must(f.b.t, f.b.objects.NewNat4.Delete(natKey(3, natPort, tcp)))
	delete(f.taken, natPort)
}

func networkOrder(address uint32) uint32 {
	return binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, address))
}

func TestThePoolTowardsOneDestinationCanBeFilled(t *testing.T) {
	const ports = 32768
	f := natPool(t, ports)
	for len(f.taken) < ports*80/100 {
		if !f.open() {
			t.Fatalf("the first flow without a port came at a fill of %.1f %%, want 80 %%", float64(len(f.taken))*100/ports)
		}
	}
	attempts := len(f.taken)
	for ; len(f.taken) < ports*90/100; attempts++ {
		f.open()
	}
	if failed := attempts - len(f.taken); failed*100 >= attempts {
		t.Errorf("%d of %d flows found no port on the way to a fill of 90 %%, want less than 1 %%", failed, attempts)
	}
	// At a fill that stays 90 %: what comes in goes out again.
	const steady = 3000
	failed := 0
	for range steady {
		if !f.open() {
			failed++
			continue
		}
		for natPort := range f.taken {
			f.closeOne(natPort)
			break
		}
	}
	if failed*100 >= steady {
		t.Errorf("%d of %d flows found no port at a fill of 90 %%, want less than 1 %%", failed, steady)
	}
	t.Logf("failures: %d of %d flows on the way to 90 %%, %d of %d at 90 %%", attempts-ports*90/100, attempts, failed, steady)

	if n := count(t, f.b.objects.NewNat4); n != len(f.taken) {
		t.Errorf("%d ways back for %d ports", n, len(f.taken))
	}
	got := f.b.counters()
	if drops := got.drops["nat_exhausted"]; drops != sum(got.drops) || drops != uint64(attempts-ports*90/100+failed) {
		t.Errorf("drops %v, want one nat_exhausted for each flow without a port", got.drops)
	}
	// Each port's packets come back to the client that has it.
	checked := 0
	for natPort, client := range f.taken {
		out := f.b.quick(answer(3, natPort, 6, "A").frame(t), xdpTX)
		if got := binary.BigEndian.Uint32(out[30:]) - 0x0a000000; got != client {
			t.Fatalf("port %d's reply went to client %d, want %d", natPort, got, client)
		}
		if checked++; checked == 1000 {
			break
		}
	}
}

func TestAFullPoolDropsOnlyNewFlows(t *testing.T) {
	const ports = 16
	b := snatBalancer(t)
	b.configure(func(c *LBLbConfig) { c.NatMin, c.NatMax = natMin, natMin+ports-1 })
	f := &natFlood{b: b, frame: request(1, "S").frame(t), taken: map[uint16]uint32{}}
	for tries := 0; len(f.taken) < ports; tries++ {
		if f.open(); tries == 1000 {
			t.Fatalf("1000 flows got only %d of %d ports", len(f.taken), ports)
		}
	}
	before := b.counters()
	for range 20 {
		if f.open() {
			t.Fatal("a flow got a port of a full pool")
		}
	}
	after := b.counters()
	if n := after.drops["nat_exhausted"] - before.drops["nat_exhausted"]; n != 20 {
		t.Errorf("%d drops counted, want 20", n)
	}
	if total(after.service) != total(before.service) {
		t.Errorf("flows without a port were counted: %+v", after.service)
	}
	b.wantFlows(ports, ports)
	for natPort, client := range f.taken {
		if got, ok := f.flow(client, 1024); !ok || got != natPort {
			t.Errorf("client %d had port %d, now %d", client, natPort, got)
		}
	}
	// A port that is freed is found again.
	const freed = natMin + 5
	f.closeOne(freed)
	for tries := 0; f.taken[freed] == 0; tries++ {
		if f.open(); tries == 100 {
			t.Fatal("100 flows did not find the port that was freed")
		}
	}
}

func TestTheClientsPortIsKeptWhereItIsFree(t *testing.T) {
	b := snatBalancer(t)
	f := &natFlood{b: b, frame: request(1, "S").frame(t)}
	owners := map[uint16]uint32{}
	for n := range uint32(400) {
		want := uint16(natMin + n%200)
		got, ok := f.flow(n, want)
		if !ok {
			t.Fatal("no port")
		}
		if _, taken := owners[want]; !taken && got != want {
			t.Errorf("client %d asked for port %d, which was free, and got %d", n, want, got)
		}
		if owner, twice := owners[got]; twice {
			t.Fatalf("port %d belongs to client %d and to client %d", got, owner, n)
		}
		owners[got] = n
	}
	b.wantFlows(400, 400)
}
