package trace

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// The actions of XDP (enum xdp_action).
const (
	xdpDrop = 1
	xdpPass = 2
	xdpTX   = 3
)

// outcome is what the program did with a packet.
type outcome struct {
	verdict  api.Verdict
	reason   string
	answered bool
	opened   bool
	// backend counted the packet, 0: none did.
	backend uint32
	frame   []byte
}

// run has the program judge a frame.
func (w *world) run(t *testing.T, frame []byte) outcome {
	t.Helper()
	drops, traffic := w.counters(t)
	out := make([]byte, len(frame)+256)
	run := ebpf.RunOptions{Data: frame, DataOut: out}
	action, err := w.program.Run(&run)
	must(t, err)
	o := outcome{frame: run.DataOut}
	dropsNow, trafficNow := w.counters(t)
	for reason, n := range dropsNow {
		if n != drops[reason] {
			if o.reason != "" || n != drops[reason]+1 {
				t.Fatalf("one packet counts as more than one drop: %v, before %v", dropsNow, drops)
			}
			o.reason = reason
		}
	}
	for id, now := range trafficNow {
		if was := traffic[id]; now != was {
			o.backend, o.opened = id, now.Connections != was.Connections
		}
	}
	switch action {
	case xdpDrop:
		o.verdict = api.Dropped
	case xdpPass:
		o.verdict = api.Passed
	case xdpTX:
		o.verdict = api.Forwarded
		if o.reason != "" {
			o.verdict, o.answered = api.Dropped, true
		}
	}
	return o
}

func (w *world) counters(t *testing.T) (map[string]uint64, map[uint32]datapath.Traffic) {
	t.Helper()
	drops, err := w.maps.Drops()
	must(t, err)
	traffic := make(map[uint32]datapath.Traffic)
	for _, id := range w.ids {
		traffic[id], err = w.maps.BackendTraffic(id)
		must(t, err)
	}
	return drops, traffic
}

// Every answer is compared with what the program then does, of packets and states at random.
func TestTraceSaysWhatTheProgramThenDoes(t *testing.T) {
	w := newWorld(t, 20)
	const packets = 2500
	seen := make(map[string]int)
	for n := range packets {
		w.shuffle(t)
		p := w.packet()
		now := datapath.Clock()
		if w.random.IntN(3) > 0 {
			w.remember(t, p, now)
		}
		trace, err := Run(w.maps, p, datapath.Clock())
		must(t, err)
		got := w.run(t, w.frame(t, p))
		if faults := w.compare(trace, got); len(faults) > 0 {
			t.Fatalf("packet %d, %+v:\n%s\ntrace says %s\n%s\nthe program: %s %s, answered %t, opened %t, backend %d",
				n, p, strings.Join(faults, "\n"), trace.Verdict, strings.Join(trace.Steps, "\n"),
				got.verdict, got.reason, got.answered, got.opened, got.backend)
		}
		seen[kindOf(trace)]++
	}
	for _, kind := range slices.Sorted(maps.Keys(seen)) {
		t.Logf("%5d %s", seen[kind], kind)
	}
	for _, kind := range []string{
		"pass", "forward dsr new", "forward dsr known", "forward snat new", "forward snat known", "forward reply", "forward affinity", "forward hairpin",
		"drop source_denied", "drop no_backend", "drop no_neighbour", "drop no_flow", "drop mtu_exceeded", "drop mtu_exceeded answered", "drop conntrack_failed",
	} {
		if seen[kind] < 5 {
			t.Errorf("only %d of %d packets are %q", seen[kind], packets, kind)
		}
	}
}

// shuffle changes the state of a backend now and then.
func (w *world) shuffle(t *testing.T) {
	t.Helper()
	if w.random.IntN(3) > 0 {
		return
	}
	id := pick(w.random, w.ids...)
	b, _, err := w.maps.Backend(id)
	must(t, err)
	b.State = pick(w.random, datapath.Active, datapath.Active, datapath.Draining, datapath.Quarantined, datapath.Maintenance)
	must(t, w.maps.PutBackend(id, b))
}

func kindOf(t api.Trace) string {
	if t.Verdict == api.Dropped {
		kind := "drop " + t.Reason
		if t.Answered {
			kind += " answered"
		}
		return kind
	}
	if t.Verdict != api.Forwarded {
		return string(t.Verdict)
	}
	kind := "forward "
	switch {
	case t.Client.IsValid():
		return kind + "reply"
	case t.Choice != nil && t.Choice.By == "affinity":
		return kind + "affinity"
	case t.Opens && t.Mode != t.Service.Mode:
		return kind + "hairpin"
	case t.Opens:
		return kind + t.Mode + " new"
	case t.Flow == nil || t.Flow.Over != "":
		return kind + "reset"
	}
	return kind + t.Mode + " known"
}

func (w *world) compare(trace api.Trace, got outcome) (faults []string) {
	check := func(what string, said, done any) {
		if said != done {
			faults = append(faults, fmt.Sprintf("%s: trace says %v, the program %v", what, said, done))
		}
	}
	check("verdict", trace.Verdict, got.verdict)
	check("reason", trace.Reason, got.reason)
	check("answered", trace.Answered, got.answered)
	check("opens", trace.Opens, got.opened)
	if len(faults) > 0 || trace.Verdict != api.Forwarded {
		return faults
	}
	check("backend", trace.Backend.ID, got.backend)
	packet := gopacket.NewPacket(got.frame, layers.LayerTypeEthernet, gopacket.Default)
	from, to, inside := ends(packet)
	mac := packet.Layer(layers.LayerTypeEthernet).(*layers.Ethernet).DstMAC.String()
	switch {
	case trace.Client.IsValid():
		check("reply's destination", trace.Client, to)
		return faults
	case trace.Mode == "snat":
		check("destination", trace.Backend.Address, to)
		check("source", w.own(datapath.Flow{Source: from}), from.Addr())
		if trace.NATPort != 0 {
			check("NAT port", trace.NATPort, from.Port())
		} else if from.Port() < w.config.NATMin {
			check("NAT port", "one of the pool", from.Port())
		}
	case trace.Backend.Encap == "ipip":
		check("outer destination", trace.Backend.Address.Addr(), to.Addr())
		check("inner destination", trace.Packet.To, inside)
	default:
		check("destination", trace.Packet.To, to)
	}
	check("MAC", trace.Backend.MAC, mac)
	return faults
}

// ends are a packet's addresses, the outer ones where there are two; inside is the inner destination.
func ends(p gopacket.Packet) (from, to, inside netip.AddrPort) {
	var sources, dests []netip.Addr
	var sport, dport uint16
	for _, layer := range p.Layers() {
		switch l := layer.(type) {
		case *layers.IPv4:
			sources, dests = append(sources, addr(l.SrcIP)), append(dests, addr(l.DstIP))
		case *layers.IPv6:
			sources, dests = append(sources, addr(l.SrcIP)), append(dests, addr(l.DstIP))
		case *layers.TCP:
			sport, dport = uint16(l.SrcPort), uint16(l.DstPort)
		case *layers.UDP:
			sport, dport = uint16(l.SrcPort), uint16(l.DstPort)
		}
	}
	if len(dests) == 0 {
		return from, to, inside
	}
	return netip.AddrPortFrom(sources[0], sport), netip.AddrPortFrom(dests[0], dport), netip.AddrPortFrom(dests[len(dests)-1], dport)
}

func addr(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
