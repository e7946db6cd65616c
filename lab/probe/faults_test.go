package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// edit lets a function replace frames of a place: by none, itself, or more.
func edit(e *Evidence, place capture.Place, replace func(p evidence.Packet) [][]byte) {
	for i, r := range e.Recordings {
		if r.Place != place {
			continue
		}
		var frames []capture.Frame
		for _, p := range evidence.Decode(place, r.Frames) {
			for _, data := range replace(p) {
				f := p.Frame
				f.Data, f.Length = data, max(f.Length, len(data))
				frames = append(frames, f)
			}
		}
		e.Recordings[i].Frames = frames
	}
}

// first edits the first frame that a place shows and the condition holds for.
func first(e *Evidence, place capture.Place, which func(evidence.Packet) bool, replace func(data []byte) [][]byte) {
	done := false
	edit(e, place, func(p evidence.Packet) [][]byte {
		if done || !which(p) {
			return [][]byte{p.Frame.Data}
		}
		done = true
		return replace(bytes.Clone(p.Frame.Data))
	})
}

func gone([]byte) [][]byte         { return nil }
func twice(data []byte) [][]byte   { return [][]byte{data, data} }
func sent(p evidence.Packet) bool  { return !p.Frame.Outgoing && p.IsIPv4() }
func data(p evidence.Packet) bool  { return sent(p) && len(p.Transport.Payload) > 0 }
func toFIN(p evidence.Packet) bool { return p.Transport.Has(evidence.FIN) && p.Transport.DstPort == 80 }

// set changes bytes of a frame and repairs the checksum of its first IP header.
func set(at int, values ...byte) func([]byte) [][]byte {
	return func(data []byte) [][]byte {
		copy(data[at:], values)
		return [][]byte{sumHeader(data)}
	}
}

func sumHeader(data []byte) []byte {
	var sum uint32
	binary.BigEndian.PutUint16(data[24:], 0)
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(data[24:], ^uint16(sum))
	return data
}

// flip inverts one byte and repairs nothing.
func flip(at int) func([]byte) [][]byte {
	return func(data []byte) [][]byte {
		data[at] ^= 0xff
		return [][]byte{data}
	}
}

// Offsets in a frame that the balancer sent: behind the MACs and type stands
// the IP header, behind the outer one of IP-in-IP the inner one.
const (
	atDestMAC   = 0
	atSourceMAC = 6
	atLength    = 14 + 2
	atFragment  = 14 + 6
	atTTL       = 14 + 8
	atSource    = 14 + 12
	atDest      = 14 + 16
	innerSum    = 14 + 20 + 20 + 16
	innerIPSum  = 14 + 20 + 10
	innerData   = 14 + 20 + 20 + 20
)

var (
	lbPort = placeOf("lb")
	lbOwn  = capture.Place{Machine: "lb"}
	be3Own = capture.Place{Machine: "be3"}
)

// Each fault turns the checks red that it breaks, and no other.
func TestEachFaultTurnsItsCheckRed(t *testing.T) {
	for _, c := range []struct {
		name     string
		mode     topology.Mode
		protocol topology.Protocol
		bend     func(*sim)      // the rules, before
		spoil    func(*Evidence) // what was seen, after
		red      []string
	}{
		{name: "an inner TCP checksum is wrong", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbPort, sent, flip(innerSum)) }, red: []string{checksumsRight, innerBytesSame}},
		{name: "an inner IP checksum is wrong", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbPort, sent, flip(innerIPSum)) }, red: []string{checksumsRight, innerBytesSame}},
		{name: "an outer checksum is wrong", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbPort, sent, flip(24)) }, red: []string{checksumsRight}},
		{name: "a byte of the inner payload was changed", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbPort, data, flip(innerData)) }, red: []string{checksumsRight, innerBytesSame}},
		{name: "a flow is sent to another backend than the table says", mode: topology.DSR,
			bend: func(s *sim) { s.misdirect(3) }, red: []string{maglevBackend}},
		{name: "a flow is translated to another backend than the table says", mode: topology.SNAT,
			bend: func(s *sim) { s.misdirect(3) }, red: []string{maglevBackend}},
		{name: "a 5-tuple is sent elsewhere the second time", mode: topology.DSR,
			bend: func(s *sim) { s.forget() }, red: []string{maglevBackend, sameTuple}},
		{name: "replies go through the balancer in dsr", mode: topology.DSR,
			spoil: replyThroughBalancer, red: []string{noReplyCrosses, replyIsStraight}},
		{name: "a FIN does not leave the balancer", mode: topology.DSR,
			spoil: func(e *Evidence) {
				first(e, lbPort, func(p evidence.Packet) bool { return sent(p) && toFIN(p) }, gone)
			}, red: []string{backendsCounted, hopsComplete, leavesOnce}},
		{name: "a FIN from the backend does not leave the balancer", mode: topology.SNAT,
			spoil: func(e *Evidence) {
				first(e, lbPort, func(p evidence.Packet) bool {
					return sent(p) && p.Transport.Has(evidence.FIN) && p.Transport.SrcPort == 80
				}, gone)
			}, red: []string{hopsComplete, leavesOnce}},
		{name: "a frame leaves the balancer twice", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbPort, data, twice) }, red: []string{leavesOnce}},
		{name: "a translated request leaves the balancer twice", mode: topology.SNAT,
			spoil: func(e *Evidence) { first(e, lbPort, data, twice) }, red: []string{leavesOnce}},
		{name: "a translated reply leaves the balancer twice", mode: topology.SNAT,
			spoil: func(e *Evidence) {
				first(e, lbPort, func(p evidence.Packet) bool { return data(p) && p.Transport.SrcPort == 80 }, twice)
			}, red: []string{leavesOnce}},
		{name: "the service's counters stand still", mode: topology.DSR,
			spoil: func(e *Evidence) { e.After.Counters.Services[0].Traffic = api.Traffic{} }, red: []string{serviceCounted}},
		{name: "the service counts one byte too many", mode: topology.SNAT,
			spoil: func(e *Evidence) { e.After.Counters.Services[0].TxBytes++ }, red: []string{serviceCounted}},
		{name: "a backend's counters stand still", mode: topology.SNAT,
			spoil: func(e *Evidence) { e.After.Counters.Services[0].Backends[1].Traffic = api.Traffic{} }, red: []string{backendsCounted}},
		{name: "a drop counter moves", mode: topology.DSR,
			spoil: func(e *Evidence) { e.After.Counters.Drops = map[string]uint64{"malformed_ip": 4, "no_backend": 0} }, red: []string{nothingDropped}},
		{name: "the outer TTL is 0", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbPort, sent, set(atTTL, 0)) }, red: []string{outerHeaderRight}},
		{name: "the outer length is wrong", mode: topology.DSR,
			spoil: func(e *Evidence) {
				first(e, lbPort, sent, func(data []byte) [][]byte {
					binary.BigEndian.PutUint16(data[atLength:], uint16(len(data)-14+4))
					return [][]byte{append(sumHeader(data), 0, 0, 0, 0)}
				})
			}, red: []string{outerHeaderRight}},
		{name: "the outer header lacks DF", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbPort, sent, set(atFragment, 0, 0)) }, red: []string{outerHeaderRight}},
		{name: "the outer source is not the balancer", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbPort, sent, set(atSource, 20, 1, 1, 2)) }, red: []string{outerHeaderRight}},
		{name: "a frame has another machine's MAC address as destination", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbPort, sent, set(atDestMAC, 2, 9, 9, 9, 9, 9)) }, red: []string{macsRight}},
		{name: "a frame does not have the balancer's MAC address as source", mode: topology.SNAT,
			spoil: func(e *Evidence) { first(e, lbPort, sent, set(atSourceMAC, 2, 9, 9, 9, 9, 9)) }, red: []string{macsRight}},
		{name: "the mode in force is another one", mode: topology.DSR,
			spoil: func(e *Evidence) { e.ServiceMode = "snat" }, red: []string{modeIsInForce}},
		{name: "no decapsulation on one windows backend", mode: topology.DSR,
			bend: func(s *sim) { s.xdpOff["be1"] = true },
			spoil: func(e *Evidence) {
				e.After.Decap["be1"] = api.DecapStatus{Hook: "xdp"}
			}, red: []string{decapCounted, ownKindOfDecap}},
		{name: "a windows backend decapsulates at the TC hook", mode: topology.DSR,
			bend: func(s *sim) { s.xdpOff["be1"] = true }, red: []string{ownKindOfDecap}},
		{name: "a linux backend decapsulates at the XDP hook", mode: topology.DSR,
			spoil: func(e *Evidence) {
				edit(e, be3Own, func(p evidence.Packet) [][]byte {
					if !p.Encapsulated() {
						return [][]byte{p.Frame.Data}
					}
					return [][]byte{append(bytes.Clone(p.Frame.Data[:14]), p.Frame.Data[34:]...)}
				})
			}, red: []string{ownKindOfDecap}},
		{name: "a decapsulation counter stands still", mode: topology.DSR,
			spoil: func(e *Evidence) { e.Before.Decap["be2"] = e.After.Decap["be2"] }, red: []string{decapCounted}},
		{name: "a frame for another address is swallowed", mode: topology.DSR,
			spoil: func(e *Evidence) { first(e, lbOwn, sent, gone) }, red: []string{foreignPasses}},
		{name: "a frame for another address is changed", mode: topology.SNAT,
			spoil: func(e *Evidence) { first(e, lbOwn, sent, set(atTTL, 63)) }, red: []string{foreignPasses}},
		{name: "a frame for another address is sent on", mode: topology.SNAT,
			spoil: func(e *Evidence) {
				edit(e, lbPort, func(p evidence.Packet) [][]byte { return [][]byte{p.Frame.Data} })
				for i, r := range e.Recordings {
					if r.Place == lbPort {
						last := r.Frames[len(r.Frames)-1]
						last.Outgoing = false
						e.Recordings[i].Frames = append(r.Frames, last)
					}
				}
			}, red: []string{foreignPasses}},
		{name: "one backend is never reached", mode: topology.DSR,
			bend: func(s *sim) {
				rule := s.backendOf
				s.backendOf = func(c netip.AddrPort) string {
					if name := rule(c); name != "be4" {
						return name
					}
					return "be3"
				}
			}, red: []string{everyBackendReached, maglevBackend}},
		{name: "a connection is not answered", mode: topology.DSR,
			spoil: func(e *Evidence) { e.Exchanges[5].Err = errors.New("timeout") }, red: []string{everyAnswer}},
		{name: "another backend answers than the packets went to", mode: topology.SNAT,
			spoil: func(e *Evidence) {
				i := slices.IndexFunc(e.Exchanges, func(x Exchange) bool { return x.Answer.Name == "be2" })
				e.Exchanges[i].Answer = e.Exchanges[slices.IndexFunc(e.Exchanges, func(x Exchange) bool { return x.Answer.Name == "be3" })].Answer
			}, red: []string{answerAgrees}},
		{name: "a frame is lost between balancer and backend", mode: topology.DSR,
			spoil: func(e *Evidence) {
				first(e, placeOf("be1"), func(p evidence.Packet) bool { return p.Frame.Outgoing && toFIN(p) }, gone)
			}, red: []string{decapCounted, hopsComplete}},
		{name: "a download's hash differs", mode: topology.DSR,
			spoil: func(e *Evidence) { e.Transfers[0].ReceivedSum = "bb" }, red: []string{downloadWhole}},
		{name: "an upload is cut short", mode: topology.SNAT,
			spoil: func(e *Evidence) { e.Transfers[1].ReceivedBytes-- }, red: []string{uploadWhole}},
		{name: "a capture loses frames", mode: topology.DSR,
			spoil: func(e *Evidence) { e.Recordings[0].Dropped = 7 }, red: []string{capturesComplete}},
		{name: "one NAT port is given to two clients", mode: topology.SNAT,
			bend: func(s *sim) { s.natPort = func(c netip.AddrPort) uint16 { return max(c.Port(), natPortMin) } },
			// The one reverse entry sends both flows' replies to the same client.
			red: []string{bothCross, hopsComplete, leavesOnce, portOfItsOwn}},
		{name: "a free port is not kept", mode: topology.SNAT,
			bend: func(s *sim) { s.shiftPort(5, 65000) }, red: []string{portIsKept}},
		{name: "a port outside the pool is kept", mode: topology.SNAT,
			bend: func(s *sim) { s.natPort = func(c netip.AddrPort) uint16 { return c.Port() ^ second(c) } }, red: []string{portIsKept}},
		{name: "the TTL is not counted down", mode: topology.SNAT,
			spoil: func(e *Evidence) { first(e, lbPort, sent, set(atTTL, 64)) }, red: []string{onlyTranslated}},
		{name: "a translated payload was changed", mode: topology.SNAT,
			spoil: func(e *Evidence) { first(e, lbPort, data, flip(14+20+20)) }, red: []string{checksumsRight, onlyTranslated}},
		{name: "a translated UDP checksum is wrong", mode: topology.SNAT, protocol: topology.UDP,
			spoil: func(e *Evidence) { first(e, lbPort, sent, flip(14+20+6)) }, red: []string{checksumsRight}},
		{name: "a translated UDP checksum was taken away", mode: topology.SNAT, protocol: topology.UDP,
			spoil: func(e *Evidence) { first(e, lbPort, sent, set(14+20+6, 0, 0)) }, red: []string{onlyTranslated}},
		{name: "a datagram is swallowed", mode: topology.DSR, protocol: topology.UDP,
			spoil: func(e *Evidence) { first(e, lbPort, sent, gone) },
			// Nothing shows where its flow went, though an answer came from there.
			red: []string{answerAgrees, backendsCounted, hopsComplete, leavesOnce, replyIsStraight}},
		{name: "a backend sees the client's address in snat", mode: topology.SNAT,
			spoil: func(e *Evidence) {
				first(e, placeOf("be1"), func(p evidence.Packet) bool { return p.Frame.Outgoing && len(p.Transport.Payload) > 0 }, set(atSource, 20, 1, 1, 100))
			}, red: []string{backendSees, hopsComplete}},
		{name: "a client is answered from the backend's address", mode: topology.SNAT,
			spoil: func(e *Evidence) {
				first(e, placeOf("client"), func(p evidence.Packet) bool { return p.Frame.Outgoing && len(p.Transport.Payload) > 0 }, set(atSource, 20, 1, 1, 10))
			}, red: []string{clientSees, hopsComplete}},
		{name: "a reply goes past the balancer in snat", mode: topology.SNAT,
			spoil: func(e *Evidence) {
				first(e, placeOf("client"), func(p evidence.Packet) bool { return p.Frame.Outgoing }, set(atSourceMAC, e.MACs["be1"]...))
			}, red: []string{bothCross}},
		{name: "the balancer's ephemeral range reaches into the pool", mode: topology.SNAT,
			spoil: func(e *Evidence) { e.Ephemeral = &[2]uint16{32768, 60999} }, red: []string{poolApart}},
	} {
		t.Run(c.name, func(t *testing.T) {
			protocol := c.protocol
			if protocol == "" {
				protocol = topology.TCP
			}
			s := newSim(t, c.mode, protocol)
			if c.bend != nil {
				c.bend(s)
			}
			e := s.goodRun()
			if c.spoil != nil {
				c.spoil(&e)
			}
			checks := judged(t, e)
			slices.Sort(c.red)
			if red := failing(checks); !slices.Equal(red, c.red) {
				t.Errorf("red checks\n got %q\nwant %q", red, c.red)
				for _, check := range checks {
					if check.Status == Fail {
						t.Logf("%s\n%s", check.Name, check.Details())
					}
				}
			}
			for _, check := range checks {
				if check.Status == Fail && len(check.Faults) == 0 {
					t.Errorf("%s failed without saying why", check.Name)
				}
			}
		})
	}
}

// misdirect sends the n-th distinct client of the run to a backend that the
// table does not name.
func (s *sim) misdirect(n int) {
	rule, seen := s.backendOf, []netip.AddrPort{}
	s.backendOf = func(c netip.AddrPort) string {
		if !slices.Contains(seen, c) {
			seen = append(seen, c)
		}
		if len(seen) > n && seen[n] == c {
			return other(rule(c))
		}
		return rule(c)
	}
}

func other(name string) string {
	if name == "be1" {
		return "be2"
	}
	return "be1"
}

// forget makes the balancer choose anew when a 5-tuple comes back.
func (s *sim) forget() {
	rule := s.backendOf
	s.backendOf = func(c netip.AddrPort) string {
		times := 0
		for _, x := range s.e.Exchanges {
			if x.Client == c {
				times++
			}
		}
		if times > 1 {
			return other(rule(c))
		}
		return rule(c)
	}
}

// shiftPort gives the n-th distinct client a port of the test's choice.
func (s *sim) shiftPort(n int, port uint16) {
	rule, seen := s.natPort, []netip.AddrPort{}
	s.natPort = func(c netip.AddrPort) uint16 {
		if !slices.Contains(seen, c) {
			seen = append(seen, c)
		}
		if len(seen) > n && seen[n] == c {
			return port
		}
		return rule(c)
	}
}

// second keeps the ports of the second client apart from the first one's.
func second(c netip.AddrPort) uint16 {
	if c.Addr() == netip.MustParseAddr("20.1.1.254") {
		return 0x2000
	}
	return 0
}

// replyThroughBalancer lets every reply cross the balancer's port and reach
// the client from the balancer.
func replyThroughBalancer(e *Evidence) {
	reply := func(p evidence.Packet) bool { return p.Frame.Outgoing && p.Transport.SrcPort == 80 }
	var crossing []capture.Frame
	edit(e, placeOf("client"), func(p evidence.Packet) [][]byte {
		if !reply(p) {
			return [][]byte{p.Frame.Data}
		}
		f := p.Frame
		f.Data = slices.Concat(e.MACs["lb"], p.Frame.Data[6:])
		back := slices.Concat(e.MACs["client"], e.MACs["lb"], p.Frame.Data[12:])
		crossing = append(crossing, f, capture.Frame{Time: f.Time, Data: back, Length: len(back)})
		return [][]byte{back}
	})
	for i, r := range e.Recordings {
		if r.Place == lbPort {
			e.Recordings[i].Frames = append(r.Frames, crossing...)
		}
	}
}
