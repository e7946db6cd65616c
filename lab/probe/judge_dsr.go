package probe

import (
	"bytes"
	"fmt"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// dsr judges what direct server return promises beyond what both modes do.
func (j *judge) dsr() {
	j.outerHeader()
	j.innerBytes()
	j.replyStraight()
	j.noReplyAtBalancer()
	j.decapsulation()
	j.decapCounters()
}

// encapsulated are the probe's own requests that left as IP-in-IP.
func (j *judge) encapsulated() []pair {
	var ps []pair
	for _, p := range j.ownRequests() {
		if p.form == topology.DSR {
			ps = append(ps, p)
		}
	}
	return ps
}

// needSome leaves a check open that had nothing to look at.
func (f *finding) needSome(n int, what string) {
	if n == 0 && f.open == "" {
		f.open = "no " + what + " was seen"
	}
}

func (j *judge) outerHeader() {
	f := j.begin(outerHeaderRight,
		"protocol 4, source "+j.balancerAddr.String()+", TTL above 0, DF as inside, no fragment, no options, length of the inner packet plus 20",
		placeOf(j.balancer))
	pairs := j.encapsulated()
	for _, p := range pairs {
		outer, inner := p.out.Outer, p.out.IP
		for _, c := range []struct {
			wrong bool
			says  string
		}{
			{outer.Src != j.balancerAddr, fmt.Sprintf("outer source is %s", outer.Src)},
			{outer.TTL == 0, "outer TTL is 0"},
			{outer.HeaderLength != 20, fmt.Sprintf("outer header has %d bytes", outer.HeaderLength)},
			{inner.DF && !outer.DF, "outer header lacks the inner one's DF"},
			{outer.TotalLength != inner.TotalLength+20, fmt.Sprintf("outer length is %d, inner %d", outer.TotalLength, inner.TotalLength)},
			{p.out.Frame.Length < 14+outer.TotalLength, fmt.Sprintf("frame has %d bytes, too few for %d", p.out.Frame.Length, outer.TotalLength)},
			{len(outer.Raw) > len(inner.Raw)+20, fmt.Sprintf("%d bytes follow the inner packet", len(outer.Raw)-len(inner.Raw)-20)},
		} {
			if c.wrong {
				f.fault([]evidence.Packet{p.out}, "%s: %s", p.flow.client, c.says)
			}
		}
	}
	f.needSome(len(pairs), "encapsulated request")
	j.end(f, "%d encapsulated packets", len(pairs))
}

func (j *judge) innerBytes() {
	f := j.begin(innerBytesSame, "identical from the IP header on", placeOf(j.balancer))
	pairs := j.encapsulated()
	joined := 0
	for _, p := range pairs {
		if len(p.in) > 1 {
			joined++ // the payloads were compared when the segments were found
			continue
		}
		in, out := p.in[0].IP.Raw, p.out.IP.Raw
		if !bytes.Equal(in, out) {
			f.fault(p.all(), "%s: differs from byte %d on", p.flow.client, firstDifference(in, out))
		}
	}
	f.needSome(len(pairs), "encapsulated request")
	note := ""
	if joined > 0 {
		note = fmt.Sprintf(", %d of them joined by receive offload and compared by payload", joined)
	}
	j.end(f, "%d packets compared%s", len(pairs), note)
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func (j *judge) replyStraight() {
	client := j.Topology.Client.Name
	f := j.begin(replyIsStraight,
		"source "+j.Service.Frontend().String()+", from the MAC address of the backend that got the request", placeOf(client))
	packets, flows := 0, map[flow]bool{}
	for _, p := range j.packets[placeOf(client)] {
		if !p.Frame.Outgoing || p.Transport.Protocol == 0 {
			continue
		}
		fl := j.flowOf(p.Dest())
		if !j.own[fl] {
			continue
		}
		packets++
		flows[fl] = true
		from := j.machineWith(p.SrcMAC)
		switch {
		case p.Source() != j.Service.Frontend():
			f.fault([]evidence.Packet{p}, "%s got a packet from %s", fl.client, p.Source())
		case from == j.balancer:
			f.fault([]evidence.Packet{p}, "%s was answered through the balancer", fl.client)
		case !j.wasSentTo(fl, from):
			f.fault([]evidence.Packet{p}, "%s was answered by the machine with MAC %s (%s), its packets went to %v", fl.client, p.SrcMAC, from, j.sent[fl])
		case !bytes.Equal(p.DstMAC, j.MACs[client]):
			f.fault([]evidence.Packet{p}, "destination MAC %s is not the client's", p.DstMAC)
		}
	}
	for fl := range j.own {
		if !flows[fl] {
			f.fault(nil, "%s got no reply", fl.client)
		}
	}
	j.end(f, "%d packets of %d flows", packets, len(flows))
}

func (j *judge) machineWith(mac []byte) string {
	for name, m := range j.MACs {
		if bytes.Equal(m, mac) {
			return name
		}
	}
	return "unknown"
}

func (j *judge) wasSentTo(f flow, machine string) bool {
	for _, a := range j.sent[f] {
		if j.nameOf(a) == machine {
			return true
		}
	}
	return false
}

func (j *judge) noReplyAtBalancer() {
	f := j.begin(noReplyCrosses, "no packet with source "+j.Service.Frontend().String(), placeOf(j.balancer))
	for _, p := range j.crossing.viaVIP {
		if p.Source() == j.Service.Frontend() && j.own[j.flowOf(p.Dest())] {
			f.fault([]evidence.Packet{p}, "a reply to %s", p.Dest())
		}
	}
	for _, p := range j.ownReplies() {
		f.fault(p.all(), "a translated reply to %s", p.flow.client)
	}
	j.end(f, "%d packets at the port", len(j.packets[placeOf(j.balancer)]))
}

// decapsulation proves each backend's kind of program by what its own
// interface shows: a program at the XDP hook acts before the capture, one at
// the TC hook after it.
func (j *judge) decapsulation() {
	backends := j.captured(false)
	f := j.begin(ownKindOfDecap,
		"windows: XDP, its interface shows the inner packet; linux: TC, its interface shows the outer one",
		append(j.places(backends, false), j.places(backends, true)...)...)
	for _, name := range j.Service.Backends {
		hook := "tc"
		if j.Topology.Nodes[name].OS == topology.Windows {
			hook = "xdp"
		}
		status, ok := j.After.Decap[name]
		switch {
		case !ok:
			f.fault(nil, "%s: no status of its decapsulation program", name)
		case !status.Attached:
			f.fault(nil, "%s: no decapsulation program is attached", name)
		case status.Hook != hook:
			f.fault(nil, "%s: the program is at %s, must be at %s", name, status.Hook, hook)
		}
	}
	var seen []string
	for _, name := range backends {
		inner, outer, sample := j.insideBackend(name)
		seen = append(seen, fmt.Sprintf("%s %d inner %d outer", name, inner, outer))
		if j.toBackend(name).RxPackets == 0 {
			continue // nothing was sent there: judged elsewhere
		}
		switch j.Topology.Nodes[name].OS {
		case topology.Windows:
			if outer > 0 || inner == 0 {
				f.fault(sample, "%s: %d encapsulated and %d inner packets above the XDP hook", name, outer, inner)
			}
		default:
			if outer == 0 {
				f.fault(sample, "%s: no encapsulated packet before the TC hook, %d inner ones", name, inner)
			}
		}
	}
	j.end(f, "%s", abridged(seen))
}

// insideBackend counts what a backend's own interface received for the VIP. Its
// stack may have merged it before the capture: that there is some can be judged,
// how much cannot.
func (j *judge) insideBackend(name string) (inner, outer int, sample []evidence.Packet) {
	for _, p := range j.packets[capture.Place{Machine: name}] {
		if p.Frame.Outgoing || !p.IsIPv4() || p.Dest() != j.Service.Frontend() {
			continue
		}
		if p.Encapsulated() {
			outer++
		} else {
			inner++
		}
		if len(sample) < 2 {
			sample = append(sample, p)
		}
	}
	return inner, outer, sample
}

// toBackend counts the encapsulated packets that a backend's port was given,
// of any service: packets, and bytes of the inner IP.
func (j *judge) toBackend(name string) (t api.Traffic) {
	address, _ := j.Topology.Address(name)
	for _, p := range j.packets[placeOf(name)] {
		if p.Frame.Outgoing && p.Encapsulated() && p.Outer.Dst == address && p.Outer.Src == j.balancerAddr {
			t.RxPackets++
			t.RxBytes += uint64(p.IP.TotalLength)
		}
	}
	return t
}

// decapCounters compares the programs' counters with the backends' ports, where each
// packet is as the balancer sent it. The programs count what the guest merged as what
// came, so its own capture, which shows merged packets, is no measure of them.
func (j *judge) decapCounters() {
	backends := j.captured(true)
	f := j.begin(decapCounted, "packets and inner bytes of each backend, nothing malformed", j.places(backends, true)...)
	var seen []string
	for _, name := range backends {
		before, after := j.Before.Decap[name], j.After.Decap[name]
		want := j.toBackend(name)
		packets, bytes := after.Decapsulated-before.Decapsulated, after.Bytes-before.Bytes
		seen = append(seen, fmt.Sprintf("%s %d", name, packets))
		if packets != want.RxPackets || bytes != want.RxBytes {
			f.fault(nil, "%s: counted %d packets with %d bytes, captured %d with %d", name, packets, bytes, want.RxPackets, want.RxBytes)
		}
		if n := after.Malformed - before.Malformed; n != 0 {
			f.fault(nil, "%s: %d malformed packets", name, n)
		}
	}
	j.end(f, "%s", abridged(seen))
}
