package decap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"l4lab/agent/pin"
	"l4lab/bpf"
)

const (
	balancer = "20.1.1.1"
	backend  = "20.1.1.10"
	client   = "20.1.1.100"
	vip      = "40.1.1.1"
)

// node is a backend in a network namespace of the test's own thread: eth0 with
// the backend's address, the VIP on lo, a UDP socket on the VIP. wire is the
// other end of eth0.
type node struct {
	t      *testing.T
	eth0   netlink.Link
	wire   netlink.Link
	socket *net.UDPConn
	raw    int
	bpffs  string
	pins   string
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespace, bpffs and eBPF programs")
	}
	runtime.LockOSThread()
	home, err := netns.Get()
	must(t, err)
	inside, err := netns.New()
	must(t, err)
	t.Cleanup(func() {
		must(t, netns.Set(home))
		home.Close()
		inside.Close()
		runtime.UnlockOSThread()
	})
	n := &node{t: t, bpffs: filepath.Join(t.TempDir(), "bpf")}
	must(t, os.Mkdir(n.bpffs, 0o700))
	must(t, unix.Mount("bpf", n.bpffs, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(n.bpffs, unix.MNT_DETACH)) })
	n.pins = filepath.Join(n.bpffs, "decap")

	n.addEth0()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(vip, 32)}))
	must(t, netlink.LinkSetUp(lo))
	n.socket, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(vip), Port: 9000})
	must(t, err)
	t.Cleanup(func() { n.socket.Close() })
	return n
}

// addEth0 makes the veth pair eth0 - wire, up and with the backend's address.
func (n *node) addEth0() {
	n.t.Helper()
	must(n.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "wire"}))
	var err error
	n.eth0, err = netlink.LinkByName("eth0")
	must(n.t, err)
	n.wire, err = netlink.LinkByName("wire")
	must(n.t, err)
	must(n.t, netlink.AddrAdd(n.eth0, &netlink.Addr{IPNet: ipNet(backend, 24)}))
	must(n.t, netlink.LinkSetUp(n.wire))
	must(n.t, netlink.LinkSetUp(n.eth0))
	// Until the kernel's link watch has run, what is sent is discarded.
	deadline := time.Now().Add(5 * time.Second)
	for _, name := range []string{"eth0", "wire"} {
		for {
			l, err := netlink.LinkByName(name)
			must(n.t, err)
			if l.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(deadline) {
				n.t.Fatalf("%s is %s, not up", name, l.Attrs().OperState)
			}
			runtime.Gosched()
		}
	}
	n.raw, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	must(n.t, err)
	raw := n.raw
	n.t.Cleanup(func() { unix.Close(raw) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ipNet(address string, bits int) *net.IPNet {
	return &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(bits, 32)}
}

// ipv4 puts a header (RFC 791) before a payload.
func ipv4(from, to string, protocol byte, payload []byte) []byte {
	header := make([]byte, 20)
	header[0], header[8], header[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(header[2:], uint16(20+len(payload)))
	copy(header[12:], net.ParseIP(from).To4())
	copy(header[16:], net.ParseIP(to).To4())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum+sum>>16))
	return append(header, payload...)
}

// datagram is a UDP packet from the client to the VIP, without a checksum
// (RFC 768 allows it).
func datagram(text string) []byte {
	header := make([]byte, 8)
	binary.BigEndian.PutUint16(header[0:], 5555)
	binary.BigEndian.PutUint16(header[2:], 9000)
	binary.BigEndian.PutUint16(header[4:], uint16(8+len(text)))
	return ipv4(client, vip, unix.IPPROTO_UDP, append(header, text...))
}

// send puts an IP packet on the wire, towards eth0.
func (n *node) send(packet []byte) {
	n.t.Helper()
	frame := slices.Concat(n.eth0.Attrs().HardwareAddr, n.wire.Attrs().HardwareAddr, []byte{0x08, 0x00}, packet)
	must(n.t, unix.Sendto(n.raw, frame, 0, &unix.SockaddrLinklayer{Ifindex: n.wire.Attrs().Index, Halen: 6}))
}

// sendEncapsulated sends a text as DSR does: IP-in-IP.
func (n *node) sendEncapsulated(from, to, text string) {
	n.t.Helper()
	n.send(ipv4(from, to, unix.IPPROTO_IPIP, datagram(text)))
}

// expect fails unless the next datagram on the VIP's socket is text.
func (n *node) expect(text string) {
	n.t.Helper()
	must(n.t, n.socket.SetReadDeadline(time.Now().Add(5*time.Second)))
	buffer := make([]byte, 1500)
	got, peer, err := n.socket.ReadFromUDPAddrPort(buffer)
	if err != nil {
		n.t.Fatalf("waiting for %q: %v", text, err)
	}
	if string(buffer[:got]) != text || peer.Addr().String() != client {
		n.t.Fatalf("got %q from %s, want %q from %s", buffer[:got], peer, text, client)
	}
}

func (n *node) options(hook Hook) Options {
	return Options{Interface: "eth0", Hook: hook, PinDir: n.pins,
		Tunnels: tunnels(backend, balancer)}
}

// attach attaches and checks what Attach says about it.
func (n *node) attach(o Options, want string) {
	n.t.Helper()
	done, err := Attach(n.t.Context(), o)
	must(n.t, err)
	if !strings.Contains(done, want) {
		n.t.Fatalf("Attach says %q, want %q in it", done, want)
	}
}

// expectStatus compares the status, without the packets that merely passed.
func (n *node) expectStatus(want string) {
	n.t.Helper()
	s, err := Status(n.t.Context(), n.pins)
	must(n.t, err)
	got := fmt.Sprintf("%v %s %s %s decapsulated %d/%d malformed %d",
		s.Attached, s.Interface, s.Hook, Describe(s.Tunnels), s.Decapsulated, s.Bytes, s.Malformed)
	if got != want {
		n.t.Fatalf("status\n%s, want\n%s", got, want)
	}
}

func (n *node) pinned() []string {
	n.t.Helper()
	entries, err := os.ReadDir(n.bpffs)
	must(n.t, err)
	var names []string
	for _, e := range entries {
		// The kernel's own, such as maps.debug, have a dot.
		if !strings.Contains(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// variants are all ways to attach.
func variants(n *node) map[string]Options {
	generic, filter := n.options(XDP), n.options(TC)
	generic.Generic, filter.Clsact = true, true
	return map[string]Options{"native XDP": n.options(XDP), "generic XDP": generic, "TCX": n.options(TC), "clsact filter": filter}
}

func eachVariant(t *testing.T, test func(*testing.T, *node, string)) {
	for _, name := range []string{"native XDP", "generic XDP", "TCX", "clsact filter"} {
		t.Run(name, func(t *testing.T) { test(t, newNode(t), name) })
	}
}

func TestOnlyTheBalancersPacketsToThisBackendAreStripped(t *testing.T) {
	eachVariant(t, func(t *testing.T, n *node, variant string) {
		n.attach(variants(n)[variant], variant+", attached")
		n.expectStatus("true eth0 " + string(variants(n)[variant].Hook) + " what 20.1.1.1 sends to 20.1.1.10 decapsulated 0/0 malformed 0")
		n.sendEncapsulated("20.1.1.2", backend, "from another balancer")
		n.sendEncapsulated(balancer, "20.1.1.20", "to another backend")
		n.send(datagram("not encapsulated"))
		n.sendEncapsulated(balancer, backend, "hello")
		n.send(ipv4(balancer, backend, unix.IPPROTO_IPIP, []byte("no IP packet")))
		n.sendEncapsulated(balancer, backend, "world")
		n.expect("not encapsulated")
		n.expect("hello")
		n.expect("world")
		n.expectStatus("true eth0 " + string(variants(n)[variant].Hook) + " what 20.1.1.1 sends to 20.1.1.10 decapsulated 2/66 malformed 1")
	})
}

func TestAttachAgainKeepsWhatIsRight(t *testing.T) {
	eachVariant(t, func(t *testing.T, n *node, variant string) {
		o := variants(n)[variant]
		n.attach(o, "attached")
		n.sendEncapsulated(balancer, backend, "one")
		n.expect("one")
		again := "kept"
		if o.Clsact {
			again = "updated"
		}
		n.attach(o, variant+", "+again)

		o.Tunnels = tunnels(backend, "20.1.1.2")
		n.attach(o, variant+", "+again)
		n.sendEncapsulated(balancer, backend, "from the old balancer")
		n.sendEncapsulated("20.1.1.2", backend, "two")
		n.expect("two")
		n.expectStatus("true eth0 " + string(o.Hook) + " what 20.1.1.2 sends to 20.1.1.10 decapsulated 2/62 malformed 0")
	})
}

func TestAnotherHookReplacesTheFirst(t *testing.T) {
	n := newNode(t)
	all := variants(n)
	order := []string{"native XDP", "TCX", "clsact filter", "generic XDP", "native XDP", "clsact filter", "TCX"}
	for i, variant := range order {
		o := all[variant]
		n.attach(o, variant+", attached")
		n.sendEncapsulated(balancer, backend, "x")
		n.expect("x")
		n.expectStatus(fmt.Sprintf("true eth0 %s what 20.1.1.1 sends to 20.1.1.10 decapsulated %d/%d malformed 0", o.Hook, i+1, 29*(i+1)))
		if got, want := n.hooks(), variant; got != want {
			t.Fatalf("after %v: on the interface are %q", order[:i+1], got)
		}
	}
}

// hooks asks the kernel what is on eth0, not the pins.
func (n *node) hooks() string {
	n.t.Helper()
	var all []string
	eth0, err := netlink.LinkByName("eth0")
	must(n.t, err)
	if xdp := eth0.Attrs().Xdp; xdp != nil && xdp.Attached {
		if pin.IsGeneric(xdp) {
			all = append(all, "generic XDP")
		} else {
			all = append(all, "native XDP")
		}
	}
	tcx, err := link.QueryPrograms(link.QueryOptions{Target: eth0.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	must(n.t, err)
	for range tcx.Programs {
		all = append(all, "TCX")
	}
	filters, err := netlink.FilterList(eth0, netlink.HANDLE_MIN_INGRESS)
	must(n.t, err)
	for _, f := range filters {
		name := f.(*netlink.BpfFilter).Name
		all = append(all, "clsact "+strings.Replace(name, filterName, "filter", 1))
	}
	return strings.Join(all, ", ")
}

func (n *node) hasClsact() bool {
	n.t.Helper()
	qdiscs, err := netlink.QdiscList(n.eth0)
	must(n.t, err)
	return slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" })
}

func TestDetachLeavesNothing(t *testing.T) {
	eachVariant(t, func(t *testing.T, n *node, variant string) {
		n.attach(variants(n)[variant], "attached")
		for range 2 { // the second time there is nothing to do
			must(t, Detach(t.Context(), n.pins))
			n.expectStatus("false    decapsulated 0/0 malformed 0")
			if left := n.pinned(); len(left) > 0 {
				t.Errorf("left in the bpffs: %v", left)
			}
			if hooks := n.hooks(); hooks != "" || n.hasClsact() {
				t.Errorf("left on the interface: %q, clsact %v", hooks, n.hasClsact())
			}
		}
	})
}

func TestADeletedInterfaceShowsAndANewOneIsTaken(t *testing.T) {
	eachVariant(t, func(t *testing.T, n *node, variant string) {
		o := variants(n)[variant]
		n.attach(o, "attached")
		must(t, netlink.LinkDel(n.eth0))
		n.expectStatus("false eth0 " + string(o.Hook) + " what 20.1.1.1 sends to 20.1.1.10 decapsulated 0/0 malformed 0")
		n.addEth0()
		n.attach(o, "attached")
		n.sendEncapsulated(balancer, backend, "again")
		n.expect("again")
		n.expectStatus("true eth0 " + string(o.Hook) + " what 20.1.1.1 sends to 20.1.1.10 decapsulated 1/33 malformed 0")
		must(t, netlink.LinkDel(n.eth0))
		must(t, Detach(t.Context(), n.pins))
		if left := n.pinned(); len(left) > 0 {
			t.Errorf("left in the bpffs: %v", left)
		}
	})
}

func TestStatusOfALinkNeedsNoNamespace(t *testing.T) {
	for _, hook := range []Hook{XDP, TC} {
		t.Run(string(hook), func(t *testing.T) {
			n := newNode(t)
			n.attach(n.options(hook), "attached")
			inside, err := netns.Get()
			must(t, err)
			defer inside.Close()
			outside, err := netns.New()
			must(t, err)
			defer outside.Close()
			n.expectStatus("true eth0 " + string(hook) + " what 20.1.1.1 sends to 20.1.1.10 decapsulated 0/0 malformed 0")
			must(t, netns.Set(inside))
		})
	}
}

func TestAForeignXDPProgramStays(t *testing.T) {
	n := newNode(t)
	foreign, err := ebpf.NewProgram(bpf.PassProgram())
	must(t, err)
	defer foreign.Close()
	l, err := link.AttachXDP(link.XDPOptions{Program: foreign, Interface: n.eth0.Attrs().Index, Flags: link.XDPDriverMode})
	must(t, err)
	defer l.Close()
	_, err = Attach(t.Context(), n.options(XDP))
	if err == nil || !strings.Contains(err.Error(), "attach decap_xdp to eth0: another XDP program") {
		t.Errorf("got %v", err)
	}
	if left := n.pinned(); len(left) > 0 {
		t.Errorf("left in the bpffs: %v", left)
	}
	if n.hooks() != "native XDP" {
		t.Errorf("on the interface: %q", n.hooks())
	}
}

func TestForeignFiltersStay(t *testing.T) {
	n := newNode(t)
	must(t, netlink.QdiscAdd(clsactOf(n.eth0)))
	foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	must(t, err)
	defer foreign.Close()
	must(t, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: n.eth0.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS,
			Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd: foreign.FD(), Name: "foreign", DirectAction: true,
	}))
	o := n.options(TC)
	o.Clsact = true
	n.attach(o, "clsact filter, attached")
	if got := n.hooks(); got != "clsact foreign, clsact filter" {
		t.Errorf("on the interface: %q", got)
	}
	must(t, Detach(t.Context(), n.pins))
	if got := n.hooks(); got != "clsact foreign" || !n.hasClsact() {
		t.Errorf("after Detach on the interface: %q, clsact %v", got, n.hasClsact())
	}
}

func TestAttachRefusesWhatThisMachineLacks(t *testing.T) {
	n := newNode(t)
	cases := map[string]struct {
		change func(*Options)
		want   string
		code   int
	}{
		"a missing interface":                {func(o *Options) { o.Interface = "eth7" }, `--interface: there is no interface "eth7"`, 2},
		"a pin directory outside a bpffs":    {func(o *Options) { o.PinDir = filepath.Join(filepath.Dir(n.bpffs), "decap") }, "mount -t bpf bpf", 3},
		"a pin directory without its parent": {func(o *Options) { o.PinDir = filepath.Join(n.bpffs, "a", "b") }, "--pin-dir: its parent", 2},
		"XDP on a driver that has none":      {func(o *Options) { o.Interface, o.Hook = "lo", XDP }, "--generic takes the slow mode", 3},
		"an MTU too large for native XDP":    {func(o *Options) { o.Hook = XDP }, "the MTU of 9000 may be too large", 0},
	}
	must(t, netlink.LinkSetMTU(n.wire, 9000))
	must(t, netlink.LinkSetMTU(n.eth0, 9000))
	// No t.Run: a subtest's thread would be in the host's network namespace.
	for name, c := range cases {
		o := n.options(TC)
		c.change(&o)
		_, err := Attach(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
			continue
		}
		var coded interface{ ExitCode() int }
		code := 0
		if errors.As(err, &coded) {
			code = coded.ExitCode()
		}
		if code != c.code {
			t.Errorf("%s: %v asks for exit code %d, want %d", name, err, code, c.code)
		}
		if left := n.pinned(); len(left) > 0 {
			t.Errorf("%s: left in the bpffs: %v", name, left)
		}
	}
}

func TestTwoAttachesAtOnceDoNotMix(t *testing.T) {
	n := newNode(t)
	held, err := openPins(n.pins)
	must(t, err)
	defer held.close()
	if _, err := Attach(t.Context(), n.options(TC)); err == nil || !strings.Contains(err.Error(), "another lbagent is at work") {
		t.Errorf("got %v", err)
	}
}
