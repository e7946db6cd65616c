package path

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"l4lab/agent/health"
)

func httpOf4() health.Target {
	return health.Target{HTTP: true, Path: "/", Encap: "ipip", VIP: server4, Backend: netip.MustParseAddrPort("20.1.1.10:80")}
}

// peer is what the other end sends, with numbers counted from its own and our
// initial one.
type peer struct {
	flags    flags
	seq, ack uint32
	payload  string
}

// Both initial sequence numbers are right before the wrap.
const (
	ourISS  = 1<<32 - 2
	peerISS = 1<<32 - 3
)

// say has the connection receive a segment, and tells what it answers.
func say(c *conn, p peer) string {
	s := segment{from: server4, to: own4, flags: p.flags, seq: uint32(peerISS) + p.seq, payload: []byte(p.payload)}
	if p.flags.has(ack) {
		s.ack = uint32(ourISS) + p.ack
	}
	reply, done, err := c.receive(s)
	var words []string
	for _, r := range reply {
		text := ""
		for _, f := range []struct {
			flag flags
			name string
		}{{syn, "SYN"}, {rst, "RST"}, {psh, "PSH"}, {ack, "ACK"}} {
			if r.flags.has(f.flag) {
				text += f.name + " "
			}
		}
		text += fmt.Sprintf("seq %d", r.seq-uint32(ourISS))
		if r.flags.has(ack) {
			text += fmt.Sprintf(" ack %d", r.ack-uint32(peerISS))
		}
		words = append(words, text)
	}
	if done {
		words = append(words, fmt.Sprintf("done: %v", err))
	}
	return strings.Join(words, "; ")
}

func TestConversations(t *testing.T) {
	tcp := httpOf4()
	tcp.HTTP = false
	const r = 101 // the sequence number after the request of 100 bytes
	handshake := peer{syn | ack, 0, 1, ""}
	for _, c := range []struct {
		name   string
		target health.Target
		script []any // peer, and what is answered to it
	}{
		{"a mere connection", tcp, []any{handshake, "ACK seq 1 ack 1; done: <nil>"}},
		{"a refusal", tcp, []any{peer{rst | ack, 0, 1, ""}, "done: connection refused (reset)"}},
		{"a reset that acknowledges something else is not for us", tcp, []any{peer{rst | ack, 0, 5, ""}, ""}},
		{"a reset that acknowledges nothing is not for us", tcp, []any{peer{rst, 0, 0, ""}, ""}},
		{"an old connection's acknowledgement is reset, then the handshake passes", tcp, []any{
			peer{ack, 500, 77, ""}, "RST seq 77", handshake, "ACK seq 1 ack 1; done: <nil>"}},
		{"a SYN that crosses ours is passed over", tcp, []any{peer{syn, 0, 0, ""}, ""}},
		{"the status in one segment", httpOf4(), []any{handshake, "PSH ACK seq 1 ack 1",
			peer{ack, 1, r, "HTTP/1.1 200 OK\r\n"}, "done: <nil>"}},
		{"the status in three", httpOf4(), []any{handshake, "PSH ACK seq 1 ack 1",
			peer{ack, 1, r, "HT"}, "ACK seq 101 ack 3",
			peer{ack, 3, r, "TP/1.1 20"}, "ACK seq 101 ack 12",
			peer{ack, 12, r, "4 No\r\n"}, "done: <nil>"}},
		{"out of order: what is missing is asked for", httpOf4(), []any{handshake, "PSH ACK seq 1 ack 1",
			peer{ack, 3, r, "TP/1.1 500 Oh\r\n"}, "ACK seq 101 ack 1",
			peer{ack, 1, r, "HT"}, "ACK seq 101 ack 3",
			peer{ack, 3, r, "TP/1.1 500 Oh\r\n"}, "done: status 500, wanted 200 to 399"}},
		{"sent again, with more", httpOf4(), []any{handshake, "PSH ACK seq 1 ack 1",
			peer{ack, 1, r, "HTTP"}, "ACK seq 101 ack 5",
			peer{ack, 1, r, "HTTP"}, "ACK seq 101 ack 5",
			peer{ack, 1, r, "HTTP/1.1 200 OK\r\n"}, "done: <nil>"}},
		{"the handshake again: its acknowledgement was lost", httpOf4(), []any{handshake, "PSH ACK seq 1 ack 1",
			handshake, "PSH ACK seq 1 ack 1"}},
		{"an end with the last bytes", httpOf4(), []any{handshake, "PSH ACK seq 1 ack 1",
			peer{ack | fin, 1, r, "HTTP/1.1 200 OK\r\n"}, "done: <nil>"}},
		{"an end too early", httpOf4(), []any{handshake, "PSH ACK seq 1 ack 1",
			peer{ack | fin, 1, r, "HTTP"}, "done: closed after 4 bytes, before a status"}},
		{"a reset in the middle", httpOf4(), []any{handshake, "PSH ACK seq 1 ack 1",
			peer{rst | ack, 2, r, ""}, "", // a guess beside the mark
			peer{rst | ack, 1, r, ""}, "done: connection reset"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := newConn(c.target, own4, ourISS)
			if conn.request != nil {
				conn.request = make([]byte, 100)
			}
			for i := 0; i < len(c.script); i += 2 {
				if got := say(conn, c.script[i].(peer)); got != c.script[i+1] {
					t.Fatalf("to segment %d it answered %q, want %q", i/2, got, c.script[i+1])
				}
			}
		})
	}
}

func TestOnlyWhatIsNotAcknowledgedIsSentAgain(t *testing.T) {
	c := newConn(httpOf4(), own4, ourISS)
	if s, ok := c.again(); !ok || s.flags != syn || s.seq != ourISS {
		t.Errorf("before the handshake: %+v, %t", s, ok)
	}
	if err := c.silence(time.Second); !strings.Contains(err.Error(), "no answer to the SYN within 1s, sent 2 times") {
		t.Error(err)
	}
	say(c, peer{syn | ack, 0, 1, ""})
	if s, ok := c.again(); !ok || string(s.payload) != string(c.request) {
		t.Errorf("before the request is acknowledged: %+v, %t", s, ok)
	}
	if err := c.silence(time.Second); !strings.Contains(err.Error(), "the request was not acknowledged within 1s, sent 2 times") {
		t.Error(err)
	}
	say(c, peer{ack, 1, 1 + uint32(len(c.request)), ""})
	if s, ok := c.again(); ok {
		t.Errorf("after it: %+v", s)
	}
	if err := c.silence(time.Second); !strings.Contains(err.Error(), "no status within 1s, after 0 bytes") {
		t.Error(err)
	}
}

func TestOuterSources(t *testing.T) {
	own := netip.MustParseAddr("20.1.1.1")
	for _, c := range []struct{ source, want string }{
		{"", "20.1.1.1"},
		{"20.1.1.99", "20.1.1.99"},
		{"10.0.0.0/8", "10.34.56.78"},
		{"10.9.8.7/24", "10.9.8.78"},
		{"10.9.8.64/28", "10.9.8.78"},
		{"10.9.8.7/32", "10.9.8.7"},
	} {
		target := httpOf4()
		target.OuterSource = c.source
		got, err := outerSource(target, own, 12<<24|34<<16|56<<8|78)
		if err != nil || got.String() != c.want {
			t.Errorf("%q: got %s, %v; want %s", c.source, got, err, c.want)
		}
	}
	for _, source := range []string{"nobody", "fd20::/64", "fd20::1"} {
		target := httpOf4()
		target.OuterSource = source
		if got, err := outerSource(target, own, 1); err == nil {
			t.Errorf("%q: got %s", source, got)
		}
	}
}
