package probe

import (
	"bytes"
	"strings"

	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// balancerFrames judges the frames that the balancer sent, whatever the mode.
func (j *judge) balancerFrames() {
	j.modeInForce()
	j.exactlyOnce()
	j.checksums()
	j.macs()
}

func (j *judge) modeInForce() {
	f := j.begin(modeIsInForce, formName(j.Mode), placeOf(j.balancer))
	forms := map[topology.Mode]int{}
	for _, p := range j.ownRequests() {
		forms[p.form]++
		if p.form != j.Mode {
			f.fault(p.all(), "%s left %s", p.flow.client, formName(p.form))
		}
	}
	if j.ServiceMode != string(j.Mode) {
		f.fault(nil, "the agent says that the mode is %q", j.ServiceMode)
	}
	j.end(f, "%d requests left encapsulated, %d translated", forms[topology.DSR], forms[topology.SNAT])
}

func formName(m topology.Mode) string {
	if m == topology.DSR {
		return "encapsulated in IP-in-IP (dsr)"
	}
	return "translated (snat)"
}

// exactlyOnce catches a lost FIN, a swallowed packet, one sent twice, and one
// that nobody asked for.
func (j *judge) exactlyOnce() {
	f := j.begin(leavesOnce,
		"each packet that reaches the balancer's port has one counterpart that leaves", placeOf(j.balancer))
	ours := func(p evidence.Packet) bool {
		return p.Dest() == j.Service.Frontend() || p.Source() == j.Service.Frontend() ||
			p.IP.Src == j.balancerAddr || p.IP.Dst == j.balancerAddr
	}
	for _, p := range j.crossing.lost {
		if ours(p) {
			f.fault([]evidence.Packet{p}, "%s > %s did not leave the balancer", p.Source(), p.Dest())
		}
	}
	for _, p := range j.crossing.extra {
		f.fault([]evidence.Packet{p}, "%s > %s left the balancer without one that came, or twice", p.Source(), p.Dest())
	}
	if j.Mode == topology.SNAT {
		for _, p := range j.crossing.viaVIP {
			if !p.Frame.Outgoing && p.Source() == j.Service.Frontend() {
				f.fault([]evidence.Packet{p}, "%s > %s left the balancer without one that came, or twice", p.Source(), p.Dest())
			}
		}
	}
	j.end(f, "%d requests and %d replies came, %d and %d left", len(j.crossing.requestsIn), len(j.crossing.repliesIn),
		len(j.crossing.requests), len(j.crossing.replies))
}

// checksums looks at every IPv4 frame that the balancer sent, the extra ones too.
func (j *judge) checksums() {
	f := j.begin(checksumsRight, "outer and inner IP, TCP and UDP", placeOf(j.balancer))
	var right, open int
	for _, p := range j.packets[placeOf(j.balancer)] {
		if p.Frame.Outgoing || p.EtherType != evidence.EtherTypeIPv4 {
			continue
		}
		if p.Malformed != nil {
			f.fault([]evidence.Packet{p}, "malformed: %v", p.Malformed)
			continue
		}
		switch verdict, faults := p.Checksums(); verdict {
		case evidence.Wrong:
			f.fault([]evidence.Packet{p}, "%s > %s: %s", p.Source(), p.Dest(), strings.Join(faults, ", "))
		case evidence.Unverifiable:
			open++
		default:
			right++
		}
	}
	if right == 0 && f.faults == 0 {
		f.open = "no frame with complete checksums was seen"
	}
	j.end(f, "%d frames right, %d unverifiable (not yet summed when captured)", right, open)
}

func (j *judge) macs() {
	f := j.begin(macsRight,
		"from the balancer's to the backend's or the client's", placeOf(j.balancer))
	client := j.Topology.Client.Name
	balancerMAC := j.MACs[j.balancer]
	for _, p := range j.ownRequests() {
		to := j.nameOf(sentTo(p.out))
		j.checkMACs(f, p.out, balancerMAC, to)
	}
	for _, p := range j.ownReplies() {
		j.checkMACs(f, p.out, balancerMAC, client)
	}
	j.end(f, "%d frames", len(j.ownRequests())+len(j.ownReplies()))
}

func (j *judge) checkMACs(f *finding, p evidence.Packet, from []byte, to string) {
	if !bytes.Equal(p.SrcMAC, from) {
		f.fault([]evidence.Packet{p}, "source MAC %s is not the balancer's", p.SrcMAC)
	}
	if want := j.MACs[to]; !bytes.Equal(p.DstMAC, want) {
		f.fault([]evidence.Packet{p}, "destination MAC %s is not %s of %s", p.DstMAC, want, to)
	}
}

// foreign judges the packet for an address that is no service.
func (j *judge) foreign() {
	expected := "the balancer's own interface receives it byte for byte, and nothing of it is sent out again"
	if j.Foreign.NotSent != "" {
		j.skip(foreignPasses, expected, j.Foreign.NotSent)
		return
	}
	own := capture.Place{Machine: j.balancer}
	f := j.begin(foreignPasses, expected, placeOf(j.balancer), own)
	arrived := 0
	received := j.packets[own]
	for _, p := range j.packets[placeOf(j.balancer)] {
		if !p.IsIPv4() || p.Dest() != j.Foreign.Dest {
			continue
		}
		if !p.Frame.Outgoing {
			f.fault([]evidence.Packet{p}, "the balancer sent it out")
			continue
		}
		arrived++
		count := 0
		for _, q := range received {
			if !q.Frame.Outgoing && q.IsIPv4() && q.Dest() == j.Foreign.Dest && samePacket(p, q) {
				count++
			}
		}
		if count != 1 {
			f.fault([]evidence.Packet{p}, "the balancer's own interface received it %d times", count)
		}
	}
	for _, p := range j.crossing.extra {
		for _, q := range j.packets[placeOf(j.balancer)] {
			if q.Frame.Outgoing && q.IsIPv4() && q.Dest() == j.Foreign.Dest && maskedSum(p) == maskedSum(q) {
				f.fault([]evidence.Packet{p}, "the balancer forwarded it as if it were for the VIP")
			}
		}
	}
	if arrived == 0 {
		f.fault(nil, "no packet for %s reached the balancer's port", j.Foreign.Dest)
	}
	j.end(f, "%d packets for %s", arrived, j.Foreign.Dest)
}

// samePacket compares two views of one packet. Checksums are compared only
// where both were filled in.
func samePacket(a, b evidence.Packet) bool {
	if a.Frame.ChecksumPending || b.Frame.ChecksumPending {
		return a.Source() == b.Source() && a.Dest() == b.Dest() && a.IP.TTL == b.IP.TTL && maskedSum(a) == maskedSum(b)
	}
	return bytes.Equal(a.IP.Raw, b.IP.Raw) && bytes.Equal(a.DstMAC, b.DstMAC) && bytes.Equal(a.SrcMAC, b.SrcMAC)
}
