package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// listener reads what a balancer tells of its flows.
type listener struct {
	b      *balancer
	reader *ringbuf.Reader
}

// listen lets a balancer tell so many events a second and CPU, and stays on one
// CPU, since each has a share of its own.
func listen(b *balancer, rate uint32) *listener {
	b.t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	must(b.t, unix.SchedGetaffinity(0, &before))
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	must(b.t, unix.SchedSetaffinity(0, &one))
	b.t.Cleanup(func() {
		_ = unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	})
	reader, err := ringbuf.NewReader(b.objects.Events)
	must(b.t, err)
	b.t.Cleanup(func() { _ = reader.Close() })
	l := &listener{b, reader}
	l.read() // what an earlier test has left
	b.configure(func(c *LBLbConfig) { c.EventRate = rate })
	return l
}

// read returns the events so far, their times checked and taken out.
func (l *listener) read() (events []LBFlowEvent) {
	l.b.t.Helper()
	for {
		l.reader.SetDeadline(time.Now())
		record, err := l.reader.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return events
		}
		must(l.b.t, err)
		var e LBFlowEvent
		if size := binary.Size(e); len(record.RawSample) != size {
			l.b.t.Fatalf("an event of %d bytes, want %d", len(record.RawSample), size)
		}
		must(l.b.t, binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &e))
		e.TimeNs = 0
		events = append(events, e)
	}
}

// want checks that these events were told since the last look, and no others.
func (l *listener) want(events ...LBFlowEvent) {
	l.b.t.Helper()
	got := l.read()
	for i := range max(len(got), len(events)) {
		switch {
		case i >= len(got):
			l.b.t.Fatalf("event %+v is missing", events[i])
		case i >= len(events):
			l.b.t.Fatalf("event %+v was not expected", got[i])
		case got[i] != events[i]:
			l.b.t.Fatalf("event %d is\n%+v, want\n%+v", i, got[i], events[i])
		}
	}
}

// event is what is told of a packet's flow.
func event(kind LBEventKind, p packet, reason LBDropReason, mode LBLbMode, backend, service uint32) LBFlowEvent {
	return LBFlowEvent{
		Kind: kind, Reason: uint32(reason), BackendId: backend, ServiceId: service, Mode: mode, Family: 4,
		Flow: LBFlow{
			Saddr: wire(p.from.Addr()), Daddr: wire(p.to.Addr()),
			Sport: port(p.from.Port()), Dport: port(p.to.Port()), Proto: uint8(p.proto),
		},
	}
}

const (
	opened  = LBEventKindEVENT_NEW
	closed  = LBEventKindEVENT_CLOSED
	dropped = LBEventKindEVENT_DROPPED
)

func TestNobodyIsToldWhenTheRateIsZero(t *testing.T) {
	b := snatBalancer(t)
	l := listen(b, 0)
	b.forward(request(40000, "S"))
	b.forward(request(40000, "R"))
	b.drop(request(40001, "R").frame(t), "no_flow")
	l.want()
	if got := b.budget(); got.Sent != 0 || got.Suppressed != 0 || got.Lost != 0 {
		t.Errorf("the budget is %+v", got)
	}
}

func TestFlowsAreToldOfWhenTheyBeginAndEnd(t *testing.T) {
	const dsr, snat, none = LBLbModeLB_MODE_DSR, LBLbModeLB_MODE_SNAT, LBDropReasonDROP_NONE
	syn := request(40000, "S")
	for name, c := range map[string]struct {
		packets []packet
		mode    LBLbMode
		want    []LBFlowEvent
	}{
		"a TCP flow in DSR that the client closes": {
			[]packet{syn, syn, request(40000, "A"), request(40000, "FA"), request(40000, "FA"), request(40000, "A")}, dsr,
			[]LBFlowEvent{event(opened, syn, none, dsr, 3, 1), event(closed, syn, none, dsr, 3, 1)}},
		"a TCP flow in SNAT that both sides close": {
			[]packet{syn, answer(3, 40000, 6, "SA"), request(40000, "A"), request(40000, "FA"), answer(3, 40000, 6, "FA"), request(40000, "A")}, snat,
			[]LBFlowEvent{event(opened, syn, none, snat, 3, 1), event(closed, syn, none, snat, 3, 1)}},
		"a TCP flow in SNAT that the backend closes first": {
			[]packet{syn, answer(3, 40000, 6, "FA"), request(40000, "FA")}, snat,
			[]LBFlowEvent{event(opened, syn, none, snat, 3, 1), event(closed, syn, none, snat, 3, 1)}},
		"a TCP flow in SNAT that one side closes": {
			[]packet{syn, request(40000, "A"), request(40000, "FA")}, snat,
			[]LBFlowEvent{event(opened, syn, none, snat, 3, 1)}},
		"a flow that the client resets": {
			[]packet{syn, request(40000, "A"), request(40000, "R"), request(40000, "R")}, dsr,
			[]LBFlowEvent{event(opened, syn, none, dsr, 3, 1), event(closed, syn, none, dsr, 3, 1)}},
		"a flow that the backend resets": {
			[]packet{syn, answer(3, 40000, 6, "RA"), answer(3, 40000, 6, "RA")}, snat,
			[]LBFlowEvent{event(opened, syn, none, snat, 3, 1), event(closed, syn, none, snat, 3, 1)}},
		"a port that is used again": {
			[]packet{syn, request(40000, "FA"), syn}, dsr,
			[]LBFlowEvent{event(opened, syn, none, dsr, 3, 1), event(closed, syn, none, dsr, 3, 1), event(opened, syn, none, dsr, 3, 1)}},
		"a UDP flow": {
			[]packet{datagram(40000, "a"), datagram(40000, "b"), datagram(40000, "c")}, snat,
			[]LBFlowEvent{event(opened, datagram(40000, ""), none, snat, udpBackend(3), 2)}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t)
			b.serveBoth(c.mode, 3)
			l := listen(b, 100)
			for _, p := range c.packets {
				b.forward(p)
			}
			l.want(c.want...)
		})
	}
}

func TestDropsAreToldOfWithTheirReason(t *testing.T) {
	const dsr, snat = LBLbModeLB_MODE_DSR, LBLbModeLB_MODE_SNAT
	syn := request(40000, "S")
	old, unknown := syn, syn
	old.ttl = 1
	unknown.from, unknown.to = netip.AddrPortFrom(client, 0), netip.AddrPortFrom(vip, 0)
	large := sized(t, 1500, func(*packet) {})
	later := datagram(0, "")
	later.to = netip.AddrPortFrom(vip, 0)
	lie := syn.frame(t)
	lie[17] = 200
	for name, c := range map[string]struct {
		make   func(testing.TB) *balancer
		change func(*balancer)
		frame  []byte
		reason string
		want   LBFlowEvent
	}{
		"a malformed packet, whose ports are not known": {dsrBalancer, func(*balancer) {}, lie, "malformed_ip",
			event(dropped, unknown, LBDropReasonDROP_MALFORMED_IP, 0, 0, 0)},
		"a later fragment, whose ports are not known": {dsrBalancer, func(*balancer) {}, split(long()["UDP"].frame(t), 64)[1], "fragment",
			event(dropped, later, LBDropReasonDROP_FRAGMENT, 0, 0, 0)},
		"a TTL of 1": {dsrBalancer, func(*balancer) {}, old.frame(t), "ttl_expired",
			event(dropped, syn, LBDropReasonDROP_TTL_EXPIRED, 0, 0, 1)},
		"no neighbour": {dsrBalancer, func(b *balancer) { b.changeBackend(3, func(e *LBBackend) { e.MacSlot = 2 }) }, syn.frame(t), "no_neighbour",
			event(dropped, syn, LBDropReasonDROP_NO_NEIGHBOUR, dsr, 3, 1)},
		"no backend": {dsrBalancer, func(b *balancer) { must(b.t, b.objects.Maglev.Delete(uint32(1))) }, syn.frame(t), "no_backend",
			event(dropped, syn, LBDropReasonDROP_NO_BACKEND, dsr, 0, 1)},
		"a denied source": {dsrBalancer, func(b *balancer) {
			b.changeService(web, 6, func(s *LBService) { s.Flags = LBServiceFlagSERVICE_RANGES })
		}, syn.frame(t), "source_denied", event(dropped, syn, LBDropReasonDROP_SOURCE_DENIED, 0, 0, 1)},
		"no port": {snatBalancer, func(b *balancer) { b.configure(func(c *LBLbConfig) { c.NatMax = 0 }) }, syn.frame(t), "nat_exhausted",
			event(dropped, syn, LBDropReasonDROP_NAT_EXHAUSTED, snat, 3, 1)},
		"a reset of no flow": {snatBalancer, func(*balancer) {}, request(40000, "R").frame(t), "no_flow",
			event(dropped, syn, LBDropReasonDROP_NO_FLOW, snat, 3, 1)},
		"too large a packet": {dsrBalancer, func(*balancer) {}, func() []byte { p := large; p.fragment = 0; return p.frame(t) }(), "mtu_exceeded",
			event(dropped, large, LBDropReasonDROP_MTU_EXCEEDED, dsr, 3, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.make(t)
			c.change(b)
			l := listen(b, 100)
			b.drop(c.frame, c.reason)
			l.want(c.want)
		})
	}
	t.Run("too large a packet of which the client is told", func(t *testing.T) {
		b := dsrBalancer(t)
		l := listen(b, 100)
		b.forwardFrame(large.frame(t))
		l.want(event(dropped, large, LBDropReasonDROP_MTU_EXCEEDED, dsr, 3, 1))
	})
	t.Run("a reply, whose flow is the backend's", func(t *testing.T) {
		b := snatBalancer(t)
		b.forward(syn)
		l := listen(b, 100)
		reply := answer(3, 40000, 6, "A")
		reply.ttl = 1
		b.drop(reply.frame(t), "ttl_expired")
		l.want(event(dropped, reply, LBDropReasonDROP_TTL_EXPIRED, snat, 3, 1))
	})
}

func TestAnEventsTimeIsTheTablesClock(t *testing.T) {
	b := dsrBalancer(t)
	l := listen(b, 1)
	before := monotonic(t)
	b.forward(request(40000, "S"))
	l.reader.SetDeadline(time.Now().Add(time.Second))
	record, err := l.reader.Read()
	must(t, err)
	if at := binary.NativeEndian.Uint64(record.RawSample); at < before || at > monotonic(t) {
		t.Errorf("time %d, want between %d and %d", at, before, monotonic(t))
	}
}

// budget is the sum of all CPUs' budgets.
func (b *balancer) budget() (sum LBEventBudget) {
	b.t.Helper()
	var perCPU []LBRequest
	must(b.t, b.objects.Scratch.Lookup(uint32(0), &perCPU))
	for _, s := range perCPU {
		sum.Sent += s.Budget.Sent
		sum.Suppressed += s.Budget.Suppressed
		sum.Lost += s.Budget.Lost
	}
	return sum
}

// nextSecond makes every CPU's second begin long ago.
func (b *balancer) nextSecond() {
	b.t.Helper()
	var perCPU []LBRequest
	must(b.t, b.objects.Scratch.Lookup(uint32(0), &perCPU))
	for i := range perCPU {
		perCPU[i].Budget.SecondBeganNs = monotonic(b.t) - uint64(2*time.Second)
	}
	must(b.t, b.objects.Scratch.Put(uint32(0), perCPU))
}

func TestEventsBeyondTheRateAreOnlyCounted(t *testing.T) {
	const rate, flows = 5, 20
	b := dsrBalancer(t)
	l := listen(b, rate)
	for second := range uint64(3) {
		b.nextSecond()
		for i := range uint16(flows) {
			b.quick(request(1024+100*uint16(second)+i, "S").frame(t), xdpTX)
		}
		if n := len(l.read()); n != rate {
			t.Errorf("%d events in second %d, want %d", n, second, rate)
		}
		if got := b.budget(); got.Sent != rate || got.Suppressed != (second+1)*(flows-rate) || got.Lost != 0 {
			t.Errorf("the budget is %+v after %d seconds", got, second+1)
		}
	}
}

func TestAFullRingLosesEventsAndNoPackets(t *testing.T) {
	b := dsrBalancer(t)
	l := listen(b, 1<<31)
	const flows = 6000 // of 64 bytes and 8 of the ring's own; it has 256 KiB
	syn := request(1, "S").frame(t)
	for i := range uint16(flows) {
		binary.BigEndian.PutUint16(syn[34:], i)
		b.quick(syn, xdpTX)
	}
	told, lost := uint64(len(l.read())), b.budget().Lost
	if told+lost != flows || lost == 0 || told < 3000 {
		t.Errorf("%d events told and %d lost of %d flows", told, lost, flows)
	}
}
