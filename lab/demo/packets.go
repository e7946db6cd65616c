package demo

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/lab/role"
	"l4lab/topology"
)

// packets captures one request in a mode and shows the balancer's port.
func (w *walk) packets(ctx context.Context, mode topology.Mode) error {
	backend := w.shownBackend()
	p, err := w.capturePassage(ctx, mode, backend)
	if err != nil {
		return err
	}
	w.record.Passages = append(w.record.Passages, p.Passage)
	lb := w.topology.LoadBalancer()
	c := w.cross(p)
	var rows [][]string
	for _, packet := range p.at(capture.Place{Machine: lb, Port: true}) {
		rows = append(rows, rowOf(packet, lb))
	}
	w.showTable(fmt.Sprintf("%s's port on the switch, one request that %s answers", lb, backend), []string{"WAY", "OUTER HEADER", "FROM", "TO", "TCP"}, rows)
	if mode == topology.SNAT {
		w.judgeSNAT(p, c)
	} else {
		w.judgeDSR(p, c)
	}
	if w.standsIn(backend) {
		w.standIn("%s stands in for Windows: the Windows program's source, compiled for Linux, sits at its XDP hook.", backend)
	}
	return nil
}

// rowOf shows a packet at the balancer's port.
func rowOf(p evidence.Packet, lb string) []string {
	way, outer := "to "+lb, ""
	if !p.Frame.Outgoing {
		way = "from " + lb
	}
	if p.Encapsulated() {
		outer = fmt.Sprintf("%s > %s proto %d", p.Outer.Src, p.Outer.Dst, p.Outer.Protocol)
	}
	flags := flagsOf(p.Transport)
	if n := len(p.Transport.Payload); n > 0 {
		flags += fmt.Sprintf(", %d bytes", n)
	}
	return []string{way, outer, p.Source().String(), p.Dest().String(), flags}
}

func flagsOf(t evidence.Transport) string {
	var names []string
	for _, f := range []struct {
		flag uint8
		name string
	}{{evidence.SYN, "SYN"}, {evidence.FIN, "FIN"}, {evidence.RST, "RST"}, {evidence.ACK, "ACK"}} {
		if t.Flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, " ")
}

// crossing is what passed the balancer's port of one passage.
type crossing struct {
	requestsIn, requestsOut, repliesIn, repliesOut []evidence.Packet
}

func (w *walk) cross(p passage) (c crossing) {
	client, vip := w.topology.Client.Address, w.service.VIP
	for _, packet := range p.at(capture.Place{Machine: w.topology.LoadBalancer(), Port: true}) {
		in := packet.Frame.Outgoing // the switch sends it to the balancer
		switch {
		case in && packet.IP.Src == client:
			c.requestsIn = append(c.requestsIn, packet)
		case in:
			c.repliesIn = append(c.repliesIn, packet)
		case packet.IP.Src == vip:
			c.repliesOut = append(c.repliesOut, packet)
		default:
			c.requestsOut = append(c.requestsOut, packet)
		}
	}
	return c
}

func (w *walk) judgeSNAT(p passage, c crossing) {
	lb := w.topology.Nodes[w.topology.LoadBalancer()].Address
	requests, replies := len(c.requestsOut), len(c.repliesOut)
	w.check(requests > 0 && requests == len(c.requestsIn) && replies > 0 && replies == len(c.repliesIn),
		"requests and replies both cross the balancer: %d of %d and %d of %d packets went on", requests, len(c.requestsIn), replies, len(c.repliesIn))
	w.check(p.peer.Addr() == lb, "the backend sees the balancer as its peer: %s", p.peer)
	atClient := answersOf(p.at(capture.Place{Machine: w.topology.Client.Name, Port: true}), p)
	w.check(len(atClient) > 0 && len(atClient) == replies, "the client sees the VIP: %d packets from %s", len(atClient), w.service.VIP)
	w.here("%d packets of the request and %d of the reply cross %s, which rewrites both.", requests, replies, w.topology.LoadBalancer())
}

// answersOf are a place's packets to the passage's client.
func answersOf(packets []evidence.Packet, p passage) (answers []evidence.Packet) {
	for _, packet := range packets {
		if packet.Dest() == p.client {
			answers = append(answers, packet)
		}
	}
	return answers
}

func (w *walk) judgeDSR(p passage, c crossing) {
	lb := w.topology.Nodes[w.topology.LoadBalancer()].Address
	requests, replies := len(c.requestsOut), len(c.repliesOut)+len(c.repliesIn)
	w.check(requests > 0 && requests == len(c.requestsIn) && replies == 0,
		"requests alone cross the balancer: %d of %d packets went on, %d replies", requests, len(c.requestsIn), replies)
	backend := w.topology.Nodes[p.Backend]
	wrapped := 0
	for i, packet := range c.requestsOut {
		if o := packet.Outer; o != nil && o.Src == lb && o.Dst == backend.Address && i < len(c.requestsIn) &&
			bytes.Equal(packet.IP.Raw, c.requestsIn[i].IP.Raw) {
			wrapped++
		}
	}
	w.check(wrapped == requests, "%d of %d left in an outer header %s > %s, the client's bytes untouched inside", wrapped, requests, lb, backend.Address)
	w.checkUnwrapped(p)
	straight := 0
	answers := answersOf(p.at(capture.Place{Machine: p.Backend, Port: true}), p)
	for _, packet := range answers {
		if packet.IP.Src == w.service.VIP && !packet.Frame.Outgoing && packet.DstMAC.String() == w.record.MACs[w.topology.Client.Name] {
			straight++
		}
	}
	w.check(straight > 0 && straight == len(answers), "the reply goes from %s straight to the client: %d packets from %s", p.Backend, straight, w.service.VIP)
	w.here("%d packets of the request leave %s in an outer header, and %d of the reply cross it.", wrapped, w.topology.LoadBalancer(), replies)
}

// checkUnwrapped says whether the backend takes the outer header off. With XDP its
// own interface shows it; TC comes after a capture, so there the server's word counts.
func (w *walk) checkUnwrapped(p passage) {
	hook := role.HookOf(w.topology.Nodes[p.Backend].OS)
	inside := 0
	for _, packet := range p.at(capture.Place{Machine: p.Backend}) {
		if packet.Source() == p.client && !packet.Encapsulated() {
			inside++
		}
	}
	ok := p.peer == p.client && (hook != role.XDP || inside > 0)
	w.check(ok, "%s takes it off at %s: its server sees the client, %s", p.Backend, strings.ToUpper(string(hook)), p.peer)
}
