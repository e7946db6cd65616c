package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/bpf"
	"l4lab/lab/probe"
	"l4lab/lab/role"
	"l4lab/topology"
)

// fault is something broken on purpose that `labctl test` must find.
type fault struct {
	// name is what README.md calls it.
	name string
	mode topology.Mode
	// check is the promise that must be found broken, by the name that the
	// report gives it.
	check string
	// seed breaks it and returns how to undo that.
	seed func() (undo func())
	// again says that the lab is proved once more right after the undoing; all
	// of them are proved undone at the end.
	again bool
}

// portsPerProof is more than one proof uses of the client's ports. Each has
// ports of its own: where a fault cut connections off, their ends still try.
const portsPerProof = 300

// faults share one lab: each is seeded, found and undone.
func (s *suite) faults() {
	var t topology.Topology
	nextPort := uint16(33000)
	BeforeAll(func() {
		s.needs(namespaces)
		t = demo(s.name("fault"))
		s.up(t)
	})
	prove := func(modes ...topology.Mode) []string {
		GinkgoHelper()
		defer func() { nextPort += portsPerProof }()
		report, err := s.open(t.Name).Test(GinkgoT().Context(), probe.Options{
			Modes: modes, Timeout: 700 * time.Millisecond, TransferBytes: 256 << 10, FirstPort: nextPort,
		})
		Expect(err).NotTo(HaveOccurred())
		var text strings.Builder
		Expect(report.WriteText(&text)).To(Succeed())
		fmt.Fprintln(GinkgoWriter, text.String())
		return failuresOf(report)
	}

	It("is none on a lab as it should be", func() {
		Expect(prove(topology.DSR, topology.SNAT)).To(BeEmpty())
	})

	all := s.seeded(&t, &nextPort)
	for _, f := range all {
		It(fmt.Sprintf("(%s) is found in %s mode: the check %q fails", f.name, f.mode, f.check), func() {
			s.forgetFlows(t.Name)
			undo := sync.OnceFunc(f.seed())
			DeferCleanup(undo)
			Expect(prove(f.mode)).To(ContainElement(HavePrefix("%s: %s: ", f.mode, f.check)))
			undo()
			if f.again {
				s.forgetFlows(t.Name)
				Expect(prove(f.mode)).To(BeEmpty(), "after it was undone")
			}
		})
	}

	It("makes labctl test exit 1, and stands in its table and in the JUnit file", func() {
		// Its connections go on, so that the proof waits for none.
		s.attach(t, "be2", role.TC)
		DeferCleanup(s.attach, t, "be2", role.XDP)
		junit := filepath.Join(GinkgoT().TempDir(), "junit.xml")
		r := s.labctl("test", "--name", t.Name, "--mode", "dsr", "--junit", junit)
		Expect(r.Code).To(Equal(1))
		Expect(r.Stdout).To(MatchRegexp(`(?m)^fail +dsr +1 +every backend decapsulates with its own kind of program`))
		Expect(r.Stdout).To(And(ContainSubstring("expected:"), ContainSubstring("packet:")))
		Expect(os.ReadFile(junit)).To(ContainSubstring("<failure message="))
	})

	It("leaves nothing when it is undone: the lab passes again", func() {
		Expect(s.labctl("up", "--name", t.Name).Stdout).To(ContainSubstring("nothing to change"))
		s.forgetFlows(t.Name)
		Expect(prove(topology.DSR, topology.SNAT)).To(BeEmpty())
	})
}

// seeded lists the faults; t is the topology once the lab is up, nextPort where the
// client's ports of the next proof begin.
func (s *suite) seeded(t *topology.Topology, nextPort *uint16) []fault {
	once := func(spec func(*ebpf.Map) *ebpf.ProgramSpec) func() func() {
		return func() func() { return s.onceAtBalancersPort(t.Name, spec) }
	}
	port := func(spec func() *ebpf.ProgramSpec) func() func() {
		return func() func() { return s.atBalancersPort(t.Name, spec()) }
	}
	return []fault{
		{"no decapsulation on a Windows backend", topology.DSR, "every backend decapsulates with its own kind of program",
			func() func() { return s.cutLink(*t, "be1", "xdp_link") }, true},
		{"no decapsulation on a Linux backend", topology.DSR, "every connection is answered",
			func() func() { return s.cutLink(*t, "be3", "tc_link") }, true},
		{"decapsulation by TC on a Windows backend", topology.DSR, "every backend decapsulates with its own kind of program",
			func() func() {
				s.attach(*t, "be2", role.TC)
				return func() { s.attach(*t, "be2", role.XDP) }
			}, false},
		{"a wrong inner checksum", topology.DSR, "every checksum that the balancer sent is right",
			once(func(seen *ebpf.Map) *ebpf.ProgramSpec {
				return onIPIP(having(atInner+ipHeader+tcpFlags, flagPSH), first(seen), flip(atInner+ipHeader+tcpChecksum, asm.Half, 0x0101))
			}), false},
		{"a wrong outer checksum", topology.DSR, "every checksum that the balancer sent is right",
			once(func(seen *ebpf.Map) *ebpf.ProgramSpec {
				return onIPIP(having(atInner+ipHeader+tcpFlags, flagPSH), first(seen), flip(atIPChecksum, asm.Half, 0x0101))
			}), false},
		{"another backend than the table's", topology.DSR, "the Maglev table names the backend of each flow",
			port(func() *ebpf.ProgramSpec {
				from, to := t.Nodes["be1"].Address, t.Nodes["be2"].Address
				return onIPIP(redirect(from, to, s.mac(*t, "be2"))...)
			}), false},
		{"a lost FIN", topology.DSR, "every frame for the VIP leaves the balancer exactly once",
			once(func(seen *ebpf.Map) *ebpf.ProgramSpec {
				return onIPIP(having(atInner+ipHeader+tcpFlags, flagFIN), first(seen), drop())
			}), true},
		{"frames sent twice", topology.DSR, "every frame for the VIP leaves the balancer exactly once",
			func() func() { return s.duplicating(t.Name) }, false},
		{"an outer TTL of 0", topology.DSR, "the request leaves in an outer header from the balancer to a backend",
			port(func() *ebpf.ProgramSpec {
				return onIPIP(set(atTTL, 0), sumHeader())
			}), false},
		{"a source MAC that is not the balancer's", topology.DSR, "every frame that the balancer sent bears the right MAC addresses",
			port(func() *ebpf.ProgramSpec {
				return onIPIP(flip(atSourceMAC+5, asm.Byte, 0x10))
			}), false},
		{"payload changed under a right checksum", topology.DSR, "an upload arrives whole",
			port(func() *ebpf.ProgramSpec { return onLargeIPIP(1100, swap(600, 602)) }), false},
		{"replies through the balancer", topology.DSR, "no reply crosses the balancer's port",
			func() func() { return s.routeThroughBalancer(*t, "be4") }, true},
		{"a backend that the agent does not know", topology.DSR, "all backends are reached",
			func() func() {
				s.agent(t.Name, "service", "update", "--frontend=40.1.1.1:80", "--backends=20.1.1.10:80,20.1.1.20:80,20.1.1.30:80", "--id=1", "--mode=dsr")
				return func() { Expect(s.labctl("up", "--name", t.Name)).To(Succeeds()) }
			}, false},
		{"a stuck service counter", topology.DSR, "the service's counters equal the packets seen",
			func() func() { return s.stuckServiceCounter(*t) }, false},
		{"a stuck decapsulation counter", topology.DSR, "the decapsulation counters equal the packets seen",
			func() func() {
				return s.zeroing(filepath.Join(s.decapPins(t.Name, "be1"), "decap_stats"), 0,
					make([]bpf.DecapXDPDecapTraffic, ebpf.MustPossibleCPU()))
			}, false},
		{"a packet for another address swallowed", topology.DSR, "a packet for another address passes the balancer untouched",
			func() func() {
				s.agent(t.Name, "service", "update", "--frontend=40.1.1.2:80", "--backends=20.1.1.77:80", "--id=9", "--mode=dsr")
				return func() { s.agent(t.Name, "service", "delete", "--id", "9") }
			}, false},
		{"a web server that bears another's name", topology.DSR, "each answer comes from the backend that its packets went to",
			func() func() { return s.misname(*t, "be1", "be2") }, false},
		{"a TTL that is raised", topology.SNAT, "addresses, ports and checksums are translated and nothing else",
			port(func() *ebpf.ProgramSpec { return onTCP(add(atTTL, 1), sumHeader()) }), false},
		{"a wrong checksum of a translated packet", topology.SNAT, "every checksum that the balancer sent is right",
			once(func(seen *ebpf.Map) *ebpf.ProgramSpec {
				return onTCP(having(atInner+tcpFlags, flagPSH), first(seen), flip(atInner+tcpChecksum, asm.Half, 0x0101))
			}), false},
		{"a request that keeps the client's address", topology.SNAT, "the backend sees the balancer's address",
			once(func(seen *ebpf.Map) *ebpf.ProgramSpec {
				return onTCP(from(t.Nodes["lb"].Address), having(atInner+tcpFlags, flagPSH), first(seen), setSource(t.Client.Address), sumHeader())
			}), false},
		{"a reply from another address than the VIP", topology.SNAT, "the client sees the VIP's address",
			once(func(seen *ebpf.Map) *ebpf.ProgramSpec {
				return onTCP(from(vip().Addr()), having(atInner+tcpFlags, flagPSH), first(seen), setSource(netip.MustParseAddr("40.1.1.3")), sumHeader())
			}), false},
		{"payload of replies changed under a right checksum", topology.SNAT, "a download arrives whole",
			port(func() *ebpf.ProgramSpec { return onLargeTCP(1100, from(vip().Addr()), swap(600, 602)) }), false},
		{"the client's ports taken by others", topology.SNAT, "the client's port is kept when it is free and in the pool",
			func() func() { return s.occupyPorts(*t, *nextPort, 64) }, true},
		{"a mode that does not switch", topology.SNAT, "the service forwards in the mode that was asked for",
			func() func() { return s.stuckMode(*t) }, false},
		{"the balancer's own ports inside the pool", topology.SNAT, "the balancer's own ports lie outside the pool",
			func() func() {
				ports := func(r string) {
					s.exec(t.Name, "lb", "sh", "-c", "echo "+r+" > /proc/sys/net/ipv4/ip_local_port_range")
				}
				ports("1024 60999")
				return func() { ports("1024 32767") }
			}, false},
	}
}

// cutLink detaches a backend's program and leaves its pins, so that nothing
// but its absence shows; undo attaches it again.
func (s *suite) cutLink(t topology.Topology, backend, pin string) (undo func()) {
	GinkgoHelper()
	l, err := link.LoadPinnedLink(filepath.Join(s.decapPins(t.Name, backend), pin), nil)
	Expect(err).NotTo(HaveOccurred())
	defer l.Close()
	Expect(l.Detach()).To(Succeed())
	return func() {
		s.detach(t.Name, backend)
		s.attach(t, backend, role.HookOf(t.Nodes[backend].OS))
	}
}

// attach runs `lbagent decap` on a backend.
func (s *suite) attach(t topology.Topology, backend string, hook role.Hook) {
	GinkgoHelper()
	s.exec(t.Name, backend, "lbagent", "decap", "attach", "--interface", "eth0", "--address", t.Nodes[backend].Address.String(),
		"--balancer", t.Nodes["lb"].Address.String(), "--hook", string(hook), "--pin-dir", s.decapPins(t.Name, backend))
}

// mac returns the address of a machine's interface.
func (s *suite) mac(t topology.Topology, machine string) (mac net.HardwareAddr) {
	GinkgoHelper()
	withLink(t.Name+"-"+machine, "eth0", func(_ *netlink.Handle, link netlink.Link) error {
		mac = link.Attrs().HardwareAddr
		return nil
	})
	return mac
}

// routeThroughBalancer has a backend's replies go to the balancer, and this
// forward them.
func (s *suite) routeThroughBalancer(t topology.Topology, backend string) (undo func()) {
	GinkgoHelper()
	route := func(verb string) []string {
		return []string{"-n", t.Name + "-" + backend, "route", verb, t.Client.Address.String() + "/32", "via", t.Nodes["lb"].Address.String()}
	}
	forward := func(on string) { s.exec(t.Name, "lb", "sh", "-c", "echo "+on+" > /proc/sys/net/ipv4/ip_forward") }
	forward("1")
	Expect(run(s.ip(route("add")...))).To(Succeeds())
	return func() {
		Expect(run(s.ip(route("delete")...))).To(Succeeds())
		forward("0")
	}
}

// misname has a backend's web server say that it is another.
func (s *suite) misname(t topology.Topology, backend, other string) (undo func()) {
	GinkgoHelper()
	kill(node(s.status(t.Name), backend).PIDs["web"], syscall.SIGKILL)
	address := t.Nodes[backend].Address.String()
	web := s.start("exec", "--name", t.Name, backend, "--", "lbagent", "web", "--name", other, "--address", address,
		"--os", string(t.Nodes[backend].OS), "--tcp", ":80")
	Eventually(func() string {
		return s.labctl("exec", "--name", t.Name, backend, "--", "curl", "-s", "http://"+address+"/whoami").Stdout
	}).Should(ContainSubstring(`"` + other + `"`))
	return func() {
		web.signal(syscall.SIGTERM) // what it executes goes with it
		web.wait()
		Expect(s.labctl("up", "--name", t.Name)).To(Succeeds())
	}
}

// balancerMap opens one of the balancer's pinned maps.
func (s *suite) balancerMap(lab, name string) *ebpf.Map {
	GinkgoHelper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(s.state, lab, "bpf", "lb", "lb", name), nil)
	Expect(err).NotTo(HaveOccurred())
	return m
}

// forgetFlows empties the balancer's tables of connections: what an earlier
// fault cut off lives on there for a while, and keeps its ports.
func (s *suite) forgetFlows(lab string) {
	GinkgoHelper()
	for _, name := range []string{"flows4", "new_flows4", "nat4", "new_nat4"} {
		table := s.balancerMap(lab, name)
		var keys []bpf.LBFlow4
		var key bpf.LBFlow4
		value := make([]byte, table.ValueSize())
		entries := table.Iterate()
		for entries.Next(&key, &value) {
			keys = append(keys, key)
		}
		Expect(entries.Err()).To(Succeed())
		for _, key := range keys {
			// The agent's sweep may have been faster.
			Expect(table.Delete(key)).To(Or(Succeed(), MatchError(ebpf.ErrKeyNotExist)))
		}
		Expect(table.Close()).To(Succeed())
	}
}

// service reads what the data path knows of the first service.
func (s *suite) service(t topology.Topology) (key bpf.LBServiceKey, value bpf.LBService) {
	GinkgoHelper()
	services := s.balancerMap(t.Name, "services")
	defer services.Close()
	first := t.Services[0]
	key = bpf.LBServiceKey{Vip: wire(first.VIP), Port: bigEndian(first.Port), Proto: first.Protocol.Number(), Family: 4}
	Expect(services.Lookup(key, &value)).To(Succeed())
	return key, value
}

// wire is an IPv4 address as the maps hold it.
func wire(a netip.Addr) bpf.LBAddress {
	b := a.As4()
	return bpf.LBAddress{Word: [4]uint32{binary.NativeEndian.Uint32(b[:])}}
}

func (s *suite) stuckServiceCounter(t topology.Topology) (undo func()) {
	GinkgoHelper()
	_, service := s.service(t)
	return s.zeroing(filepath.Join(s.state, t.Name, "bpf", "lb", "lb", "service_stats"), service.Slot,
		make([]bpf.LBTraffic, ebpf.MustPossibleCPU()))
}

// zeroing keeps one entry of a pinned map at zero.
func (s *suite) zeroing(pin string, key uint32, zeros any) (undo func()) {
	GinkgoHelper()
	m, err := ebpf.LoadPinnedMap(pin, nil)
	Expect(err).NotTo(HaveOccurred())
	return repeatedly(m, func() error { return m.Put(key, zeros) })
}

// stuckMode keeps the service's mode at dsr in the data path, whatever the
// agent is told and says.
func (s *suite) stuckMode(t topology.Topology) (undo func()) {
	GinkgoHelper()
	key, service := s.service(t)
	service.Mode = bpf.LBLbModeLB_MODE_DSR
	services := s.balancerMap(t.Name, "services")
	return repeatedly(services, func() error { return services.Put(key, service) })
}

// repeatedly writes to a map every millisecond until undone.
func repeatedly(m *ebpf.Map, write func() error) (undo func()) {
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				failed <- m.Close()
				return
			case <-ticker.C:
				if err := write(); err != nil {
					failed <- err
					return
				}
			}
		}
	}()
	return func() {
		close(stop)
		Expect(<-failed).To(Succeed())
	}
}

// occupyPorts enters ways back of flows that nobody has for ports towards each
// backend.
func (s *suite) occupyPorts(t topology.Topology, first, count uint16) (undo func()) {
	GinkgoHelper()
	nat := s.balancerMap(t.Name, "nat4")
	var keys []bpf.LBFlow4
	somebody := bpf.LBNatEntry{Client: wire(netip.MustParseAddr("20.1.1.200")), ClientPort: bigEndian(9), Vip: wire(vip().Addr()), VipPort: bigEndian(80)}
	for _, b := range t.Backends() {
		for port := first; port < first+count; port++ {
			key := bpf.LBFlow4{
				Saddr: wire(t.Nodes[b].Address).Word[0], Daddr: wire(t.Nodes["lb"].Address).Word[0],
				Sport: bigEndian(80), Dport: bigEndian(port), Proto: protocolTCP,
			}
			Expect(nat.Put(key, somebody)).To(Succeed())
			keys = append(keys, key)
		}
	}
	return func() {
		for _, key := range keys {
			// The agent's sweep takes ways back that no flow has.
			Expect(nat.Delete(key)).To(Or(Succeed(), MatchError(ebpf.ErrKeyNotExist)))
		}
		Expect(nat.Close()).To(Succeed())
	}
}
