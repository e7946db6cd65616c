package probe

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// join does what receive offload does at a place: it makes one frame of two
// that follow each other, and leaves its checksum open.
func join(s *sim, e *Evidence, at capture.Place, client netip.AddrPort) (joined int) {
	for i, r := range e.Recordings {
		if r.Place != at {
			continue
		}
		var frames []capture.Frame
		var held *evidence.Packet
		for _, p := range evidence.Decode(at, r.Frames) {
			payload := !p.Frame.Outgoing && p.Encapsulated() && p.Source() == client && len(p.Transport.Payload) == 1000
			switch {
			case !payload:
				frames = append(frames, p.Frame)
			case held == nil:
				held = &p
			default:
				seg := segment{flags: evidence.ACK, seq: held.Transport.Seq, ack: held.Transport.Ack,
					payload: slices.Concat(held.Transport.Payload, p.Transport.Payload)}
				inner := s.packet(client, p.Dest(), 64, seg)
				outer := s.serialize(&layers.IPv4{
					Version: 4, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolIPv4,
					SrcIP: held.Outer.Src.AsSlice(), DstIP: held.Outer.Dst.AsSlice(),
				}, gopacket.Payload(inner))
				data := s.frame("lb", "be1", outer)
				copy(data[:14], held.Frame.Data)
				frames = append(frames, capture.Frame{Time: p.Frame.Time, Data: data, Length: len(data), ChecksumPending: true})
				held = nil
				joined++
			}
		}
		if held != nil {
			frames = append(frames, held.Frame)
		}
		e.Recordings[i].Frames = frames
	}
	return joined
}

func TestSegmentsThatReceiveOffloadJoinedAreNoLoss(t *testing.T) {
	s := newSim(t, topology.DSR, topology.TCP)
	e := s.goodRun()
	if n := join(s, &e, lbPort, e.Transfers[1].Client); n != 2 {
		t.Fatalf("%d frames were joined, want 2", n)
	}
	for _, c := range judged(t, e) {
		if c.Status != Pass {
			t.Errorf("%s: %s\n%s", c.Status, c.Name, c.Details())
		}
		if c.Name == innerBytesSame && !strings.Contains(c.Seen, "2 of them joined") {
			t.Errorf("inner bytes: %s", c.Seen)
		}
		if c.Name == checksumsRight && !strings.Contains(c.Seen, "2 unverifiable") {
			t.Errorf("checksums: %s", c.Seen)
		}
	}
}

// A Linux backend's own capture shows what its stack has merged already, and its
// counters are those of the port all the same.
func TestABackendThatMergesWhatItReceivesIsNoFault(t *testing.T) {
	s := newSim(t, topology.DSR, topology.TCP)
	x := Transfer{Client: netip.MustParseAddrPort("20.1.1.100:50000"), Upload: true, Bytes: 5000, ReceivedBytes: 5000, SentSum: "aa", ReceivedSum: "aa"}
	for s.e.Topology.Nodes[s.backendOf(x.Client)].OS != topology.Linux {
		x.Client = netip.AddrPortFrom(x.Client.Addr(), x.Client.Port()+1)
	}
	s.conversation(s.script(x.Client, true, 5000))
	s.e.Transfers = append(s.e.Transfers, x)
	e := s.goodRun()
	if n := join(s, &e, capture.Place{Machine: s.backendOf(x.Client)}, x.Client); n != 2 {
		t.Fatalf("%d frames were joined, want 2", n)
	}
	if red := failing(judged(t, e)); len(red) != 0 {
		t.Errorf("failing: %s", strings.Join(red, ", "))
	}
}

func TestSegmentsJoinedWrongAreALoss(t *testing.T) {
	s := newSim(t, topology.DSR, topology.TCP)
	e := s.goodRun()
	join(s, &e, lbPort, e.Transfers[1].Client)
	first(&e, lbPort, func(p evidence.Packet) bool { return !p.Frame.Outgoing && len(p.Transport.Payload) == 2000 }, flip(innerData+1500))
	if red := failing(judged(t, e)); !slices.Contains(red, leavesOnce) {
		t.Errorf("red checks: %q", red)
	}
}

// Somebody else's connection may be older than the mode: it is counted, since
// the counters count it, and otherwise left alone.
func TestConnectionsOfOthersAreNotJudged(t *testing.T) {
	s := newSim(t, topology.DSR, topology.TCP)
	stranger := netip.MustParseAddrPort("20.1.1.100:1234")
	rule := s.backendOf
	s.backendOf = func(c netip.AddrPort) string {
		if c == stranger {
			return other(rule(c))
		}
		return rule(c)
	}
	s.conversation(s.script(stranger, false, 100))
	for _, c := range judged(t, s.goodRun()) {
		if c.Status != Pass {
			t.Errorf("%s: %s\n%s", c.Status, c.Name, c.Details())
		}
	}
}

func TestALossyPlaceMakesItsChecksUnverifiable(t *testing.T) {
	e := newSim(t, topology.DSR, topology.TCP).goodRun()
	for i, r := range e.Recordings {
		if r.Place == lbPort {
			e.Recordings[i].Dropped = 3
		}
	}
	for _, c := range judged(t, e) {
		switch c.Name {
		case capturesComplete:
			if c.Status != Fail {
				t.Errorf("%s: %s", c.Name, c.Status)
			}
		case leavesOnce, serviceCounted, checksumsRight, noReplyCrosses:
			if c.Status != Unverifiable || !strings.Contains(c.Seen, "3 at lb port") {
				t.Errorf("%s: %s, %s", c.Name, c.Status, c.Seen)
			}
		case replyIsStraight, everyAnswer, downloadWhole:
			if c.Status != Pass {
				t.Errorf("%s rests on other places, but is %s", c.Name, c.Status)
			}
		}
	}
}

func TestASecondSYNOfAnOpenConnectionIsNoConnection(t *testing.T) {
	s := newSim(t, topology.DSR, topology.TCP)
	client := netip.MustParseAddrPort("20.1.1.100:40500")
	script := s.script(client, false, 100)
	s.play(script[0])
	s.play(script[0]) // sent again
	s.conversation(script[1:])
	s.conversation(s.script(client, false, 100)) // after the client's FIN
	s.e.Exchanges = []Exchange{{Client: client}}
	j, err := newJudge(s.evidence())
	if err != nil {
		t.Fatal(err)
	}
	if total, _ := j.expectedTraffic(); total.Connections != 2 {
		t.Errorf("%d connections, want 2", total.Connections)
	}
}
