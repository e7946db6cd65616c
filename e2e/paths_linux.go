package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/e2e/oracle"
	"l4lab/lab/capture"
)

// paths is one lab on whose packet paths the suite's own judge, e2e/oracle, has the
// word: what leaves the balancer is compared, byte for byte, with what must
// leave it for the packets that came.
type paths struct {
	*balanced
	macs  map[string]net.HardwareAddr
	ports uint16
}

const (
	pathsID    = 40
	pathsPort  = 9090
	pathsTable = 251
)

// families lists specs for both. They are functions, since the lab is not there
// while specs are listed.
func (p *paths) families(specs func(of func() ipFamily)) {
	Context("of IPv4", func() { specs(p.four) })
	Context("of IPv6", func() { specs(p.six) })
}

// from returns the first of n ports of the client's that no flow of the lab has had yet.
// They are below SNAT's pool: a spec that wants one of those names it.
func (p *paths) from(n int) uint16 {
	p.ports += uint16(n)
	return 1024 + p.ports - uint16(n)
}

// packetPaths is about every packet of each path, header by header.
func (s *suite) packetPaths() {
	p := &paths{balanced: &balanced{suite: s}}
	BeforeAll(func() {
		s.needs(namespaces, processes)
		p.bringUp()
	})
	Describe("DSR", Label("dsr"), p.direct)
	Describe("SNAT", Label("snat"), p.translated)
	Describe("ICMP", p.messages)
	Describe("flows", p.flows)
	Describe("refusals", p.refusals)
	Describe("neighbours", p.neighbours)
}

func (p *paths) bringUp() {
	p.t = demo(p.name("way"))
	p.up(p.t)
	p.l = p.open(p.t.Name)
	p.speakIP6("mtu", "1460") // as labctl does it for IPv4's VIPs
	var err error
	p.agent, err = p.l.Agent()
	Expect(err).NotTo(HaveOccurred())
	status, err := p.agent.Status(GinkgoT().Context())
	Expect(err).NotTo(HaveOccurred())
	Expect(status.Interface.Address6).To(Equal(p.six().own))
	p.macs = map[string]net.HardwareAddr{}
	for _, name := range append(p.t.Backends(), "client", "lb") {
		p.macs[name] = p.hardware(name)
	}
}

// leg is the hop from the balancer to whoever has an address.
func (p *paths) leg(f ipFamily, to netip.Addr) oracle.Leg {
	for name, address := range f.backends {
		if address == to {
			return oracle.Leg{From: p.macs["lb"], To: p.macs[name]}
		}
	}
	return oracle.Leg{From: p.macs["lb"], To: p.macs["client"]}
}

// service is the one under test, with the Maglev table that it must have.
type pathService struct {
	api.Service
	family ipFamily
	table  []netip.AddrPort
}

// serving sets a service of the family's backends (all of them without names) until the spec ends.
func (p *paths) serving(f ipFamily, protocol string, edit func(*api.Service), names ...string) pathService {
	GinkgoHelper()
	if len(names) == 0 {
		names = p.t.Backends()
	}
	s := pathService{family: f, Service: api.Service{ID: pathsID, Frontend: netip.AddrPortFrom(f.vip, pathsPort), Protocol: protocol, Mode: "dsr"}}
	for _, name := range names {
		s.Backends = append(s.Backends, api.Backend{Address: netip.AddrPortFrom(f.backends[name], pathsPort)})
	}
	if edit != nil {
		edit(&s.Service)
	}
	p.put(s.Service)
	p.awaitNextHops(s.Backends)
	s.table = tableOf(s.Service)
	return s
}

// awaitNextHops waits until the agent has the MACs of backends: it asks for those that
// nobody had yet when it is told of the backend, and until then drops their packets.
func (p *paths) awaitNextHops(backends []api.Backend) {
	GinkgoHelper()
	Eventually(func() (unknown []netip.Addr) {
		all, err := p.agent.Neighbours(GinkgoT().Context())
		Expect(err).NotTo(HaveOccurred())
		known := map[netip.Addr]bool{}
		for _, n := range all {
			known[n.Address] = n.MAC != ""
		}
		for _, b := range backends {
			if !known[b.Address.Addr()] {
				unknown = append(unknown, b.Address.Addr())
			}
		}
		return unknown
	}).Should(BeEmpty(), "backends whose MACs the agent does not have")
}

// tableOf is the table of a service's backends by their weights.
func tableOf(s api.Service) []netip.AddrPort {
	var backends []oracle.Backend
	for _, b := range s.Backends {
		if b.State == "" {
			backends = append(backends, oracle.Backend{Address: b.Address, Weight: int(b.Share())})
		}
	}
	return oracle.Table(backends, map[string]string{"tcp": "TCP", "udp": "UDP"}[s.Protocol], pathsTable)
}

// backend is the one that the table has for a client's packet.
func (s pathService) backend(request oracle.Frame) netip.AddrPort {
	return oracle.Flow{Client: request.Source(), Frontend: request.Dest(), Protocol: request.Protocol}.Choose(s.table, false)
}

// tunnelled is the only packet that may leave in DSR for a client's.
func (p *paths) tunnelled(s pathService, request oracle.Frame) oracle.Frame {
	to := s.backend(request).Addr()
	return oracle.Tunnelled(request, p.leg(s.family, to), s.family.own, to)
}

// traffic is what passed one machine's port on the switch.
type portTraffic struct {
	to, from []oracle.Frame
	// pending are those, by their bytes, whose checksums are still to be filled in:
	// the machines of the lab leave that to one another.
	pending map[string]bool
}

// sighting is the traffic of several machines, by their names.
type sighting map[string]portTraffic

// requests are the packets that came to the balancer for a frontend.
func (s sighting) requests(frontend netip.AddrPort) []oracle.Frame {
	return slices.DeleteFunc(slices.Clone(s["lb"].to), func(f oracle.Frame) bool { return f.Dest() != frontend })
}

// replies are what came to the balancer for itself.
func (s sighting) replies(own netip.Addr) []oracle.Frame {
	return slices.DeleteFunc(slices.Clone(s["lb"].to), func(f oracle.Frame) bool { return f.Dest().Addr() != own })
}

// underWay is how long packets may take from one place of the lab to the next on a busy machine.
const underWay = 3 * time.Second

// quiet is how long nothing may come until nothing more is expected. Who begins a
// connection takes its last packet along (conversation.part): how soon a backend ends its side is
// a matter of its process, and on a busy machine takes longer.
const quiet = 40 * time.Millisecond

// watch captures at the ports of the balancer and of other machines while
// something happens, and expects the balancer to have sent exactly what want makes of
// what came to it, and no other IP packet.
func (p *paths) watch(during func(), want func(sighting) []oracle.Frame, machines ...string) sighting {
	GinkgoHelper()
	seen := p.watchFaulty(during, want, machines...)
	for _, f := range seen["lb"].from {
		if !seen["lb"].pending[string(f.Data)] {
			Expect(f.Faults()).To(BeEmpty(), f.String())
		}
	}
	return seen
}

// watchFaulty does so where a client sends a wrong checksum.
func (p *paths) watchFaulty(during func(), want func(sighting) []oracle.Frame, machines ...string) sighting {
	GinkgoHelper()
	ctx := GinkgoT().Context()
	sessions := map[string]*capture.Session{}
	for _, name := range append(machines, "lb") {
		session, err := p.l.Capture(ctx, capture.Place{Machine: name, Port: true})
		Expect(err).NotTo(HaveOccurred())
		sessions[name] = session
		defer func() { _, _ = session.Stop() }()
	}
	during()
	settled := p.settled(ctx, sessions["lb"], want)
	seen := sighting{}
	for name, session := range sessions {
		result, err := session.Stop()
		Expect(err).NotTo(HaveOccurred())
		Expect(result.Dropped).To(BeZero(), "frames that the capture at %s lost: it proves nothing", name)
		seen[name] = trafficOf(session.Frames())
	}
	// What came after that, while the captures ended, may have gone out after they had.
	seen["lb"] = trafficOf(settled)
	expected := want(seen)
	Expect(expected).NotTo(BeEmpty(), "packets that the balancer had to send")
	Expect(oracle.Match(expected, seen["lb"].from)).To(BeEmpty(), "what the balancer sent")
	return seen
}

// settled returns what was captured once it matches and nothing more comes, or when it has been long enough.
func (p *paths) settled(ctx context.Context, session *capture.Session, want func(sighting) []oracle.Frame) []capture.Frame {
	GinkgoHelper()
	limited, cancel := context.WithTimeout(ctx, underWay)
	defer cancel()
	for {
		var seen []capture.Frame
		err := session.Wait(limited, func(frames []capture.Frame) bool {
			seen = frames
			now := sighting{"lb": trafficOf(frames)}
			expected := want(now)
			return len(expected) > 0 && oracle.Match(expected, now["lb"].from) == nil
		})
		if err != nil { // the time is over: what there is will be judged
			return seen
		}
		calm, cancel := context.WithTimeout(limited, quiet)
		err = session.Wait(calm, func(frames []capture.Frame) bool { return len(frames) > len(seen) })
		cancel()
		if err != nil {
			return seen
		}
	}
}

// trafficOf reads the IP packets of a capture, without the link's own business: neighbour
// discovery and multicast listeners. Towards the balancer, what cannot be read is what a
// spec sent to see it refused.
func trafficOf(frames []capture.Frame) (t portTraffic) {
	t.pending = map[string]bool{}
	for _, c := range frames {
		f, err := oracle.Read(c.Data)
		if c.Outgoing && err != nil || err == nil && !f.IsIP() {
			continue
		}
		if err != nil {
			Fail(fmt.Sprintf("a frame that a machine sent cannot be read: %v: %x", err, c.Data))
		}
		if kind, _, ok := f.ICMPType(); ok && f.Protocol == oracle.ICMPv6 && kind >= 130 || f.Protocol == 0 {
			continue
		}
		t.pending[string(c.Data)] = c.ChecksumPending
		if c.Outgoing {
			t.to = append(t.to, f)
		} else {
			t.from = append(t.from, f)
		}
	}
	return t
}

// eachRequest is a want that knows what leaves for each packet to a frontend.
func eachRequest(frontend netip.AddrPort, turn func(oracle.Frame) oracle.Frame) func(sighting) []oracle.Frame {
	return func(s sighting) (all []oracle.Frame) {
		for _, f := range s.requests(frontend) {
			all = append(all, turn(f))
		}
		return all
	}
}

// stack collects what a machine's IP stack is handed: behind the programs at XDP and TC.
type stackTap struct {
	mu     sync.Mutex
	frames []oracle.Frame
}

// atStack begins to collect, until the spec ends.
func (p *paths) atStack(machine string, f ipFamily) *stackTap {
	GinkgoHelper()
	protocol := uint16(unix.ETH_P_IP)
	if f.own.Is6() {
		protocol = unix.ETH_P_IPV6
	}
	fd, err := in(p.t.Name+"-"+machine, func() (int, error) {
		// Sockets of one protocol are served after TC, those of all of them before.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(bigEndian(protocol)))
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000})
		}
		return fd, err
	})
	Expect(err).NotTo(HaveOccurred())
	s, done, ended := &stackTap{}, make(chan struct{}), make(chan struct{})
	DeferCleanup(func() { close(done); <-ended; _ = unix.Close(fd) })
	go func() {
		defer close(ended)
		buffer := make([]byte, 65536)
		for {
			select {
			case <-done:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, buffer, 0)
			if err != nil {
				continue // nothing for so long
			}
			if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Hatype == unix.ARPHRD_LOOPBACK {
				continue // what the stack tells itself, as that a client's MAC is not known
			}
			if f, err := oracle.Read(slices.Clone(buffer[:n])); err == nil && f.IsIP() {
				s.mu.Lock()
				s.frames = append(s.frames, f)
				s.mu.Unlock()
			}
		}
	}()
	return s
}

// to returns the packets for an address and port.
func (s *stackTap) to(frontend netip.AddrPort) []oracle.Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.frames), func(f oracle.Frame) bool { return f.Dest() != frontend })
}
