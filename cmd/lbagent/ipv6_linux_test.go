package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"l4lab/agent/api"
	"l4lab/agent/web/pattern"
)

// A client's kernel and real servers on IPv6: 6in6 to both hooks, and SNAT.
func TestIPv6WorksEndToEnd(t *testing.T) {
	n := newNetwork6(t)
	for i, mode := range []string{"dsr", "snat"} {
		n.putBoth(t, mode)
		// Whom the backends see at the other end.
		peer := map[string]netip.Addr{"dsr": client6, "snat": balancer6}[mode]
		t.Run(mode+" TCP reaches the backends of both hooks", func(t *testing.T) {
			reached := map[string]int{}
			for range 30 {
				r, _ := http.NewRequest(http.MethodGet, "http://[fd00:40::1]:80/", nil)
				answer, _ := n.ask(t, r)
				reached[answer]++
			}
			for hook := range hooks6 {
				if reached[fmt.Sprintf("%s %s", hook, peer)] == 0 || len(reached) != 2 {
					t.Errorf("answers %v, wanted from %s, which sees %s", reached, hook, peer)
				}
			}
		})
		t.Run(mode+" UDP reaches the backends of both hooks", func(t *testing.T) {
			reached := map[string]int{}
			for range 30 {
				answer, text, _ := strings.Cut(n.say(t, "hello"), " ")
				if reached[answer]++; text != "hello" {
					t.Errorf("%s answered %q", answer, text)
				}
			}
			if len(reached) != 2 {
				t.Errorf("reached %v", reached)
			}
		})
		t.Run(mode+" ping finds the VIP", func(t *testing.T) {
			if from := n.ping(t, vip6, i); from != vip6 {
				t.Errorf("%s answered", from)
			}
		})
		// Last, since the client's kernel keeps what it learns.
		t.Run(mode+" carries an upload at the path MTU", func(t *testing.T) {
			const size = 5 << 20
			r, _ := http.NewRequest(http.MethodPost, "http://[fd00:40::1]:80/", pattern.Reader(size, 1))
			r.ContentLength = size
			answer, conn := n.ask(t, r)
			if want, err := pattern.SHA256(size, 1); err != nil || answer != want {
				t.Errorf("the backend has %s, sent was %s, %v", answer, want, err)
			}
			// The learned one of DSR would hold for SNAT, too, which needs none.
			if mtu := pathMTU6(t, conn); mode == "dsr" && mtu != 1460 {
				t.Errorf("the client's path MTU is %d", mtu)
			}
		})
		t.Run(mode+" carries large datagrams in fragments both ways", func(t *testing.T) {
			text := strings.Repeat("fragment", 500)
			for range 10 {
				if _, got, _ := strings.Cut(n.say(t, text), " "); got != text {
					t.Errorf("%d bytes of %d came back", len(got), len(text))
				}
			}
		})
	}
	counters, err := n.client.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for reason, packets := range counters.Drops {
		if told := reason == "mtu_exceeded"; told != (packets > 0) {
			t.Errorf("%d packets were dropped: %s", packets, reason)
		}
	}
}

// putBoth sets a TCP and a UDP service of the backends, in a mode.
func (n *network6) putBoth(t *testing.T, mode string) {
	t.Helper()
	for i, s := range []api.Service{{Protocol: "tcp", Frontend: netip.AddrPortFrom(vip6, 80)}, {Protocol: "udp", Frontend: netip.AddrPortFrom(vip6, 53)}} {
		s.ID, s.Mode, s.TableSize = uint32(i+1), mode, 251
		var its []netip.AddrPort
		for _, address := range hooks6 {
			its = append(its, netip.AddrPortFrom(address, s.Frontend.Port()))
		}
		slices.SortFunc(its, netip.AddrPort.Compare)
		s.Backends = plain(its...)
		if _, err := n.client.PutService(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		n.resolved(t, its...)
	}
}

// say sends a datagram from a socket of its own and returns the answer.
func (n *network6) say(t *testing.T, text string) string {
	t.Helper()
	conn := n.dial(t, "udp", netip.AddrPortFrom(vip6, 53))
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 65536)
	k, err := conn.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:k])
}

// ping sends an echo request and returns who answered it.
func (n *network6) ping(t *testing.T, to netip.Addr, sequence int) netip.Addr {
	t.Helper()
	socket := listening(t, n.from, func() (*icmp.PacketConn, error) { return icmp.ListenPacket("ip6:ipv6-icmp", "::") })
	request := icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: 6, Seq: sequence, Data: []byte("who is there?")}}
	wire, err := request.Marshal(nil)
	if err == nil {
		_, err = socket.WriteTo(wire, &net.IPAddr{IP: to.AsSlice()})
	}
	if err == nil {
		err = socket.SetReadDeadline(time.Now().Add(5 * time.Second))
	}
	if err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1500)
	for {
		k, peer, err := socket.ReadFrom(buffer)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := icmp.ParseMessage(58, buffer[:k]) // 58 is ICMPv6
		if err != nil {
			t.Fatal(err)
		}
		if echo, isEcho := answer.Body.(*icmp.Echo); isEcho && answer.Type == ipv6.ICMPTypeEchoReply && echo.Seq == sequence {
			from, _ := netip.AddrFromSlice(peer.(*net.IPAddr).IP)
			return from
		}
	}
}

// pathMTU6 is what the client's kernel takes for a connection's.
func pathMTU6(t *testing.T, conn net.Conn) (mtu int) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { mtu, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU) })
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return mtu
}
