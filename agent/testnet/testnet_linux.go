// Package testnet gives the agent's tests network namespaces with a veth pair
// between them, and a bpffs, and takes them away afterwards. It needs root and skips
// the test without.
package testnet

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Pair is two namespaces joined by a veth pair, eth0 on either side.
type Pair struct {
	Balancer, Peer Namespace
}

// Namespace is a network namespace with its name under /run/netns.
type Namespace struct {
	Name   string
	Handle netns.NsHandle
}

// NewPair makes two namespaces with links that are up and have the addresses,
// each with its prefix length.
func NewPair(t testing.TB, balancer string, peer ...string) Pair {
	t.Helper()
	NeedRoot(t)
	p := Pair{Balancer: newNamespace(t, "lb"), Peer: newNamespace(t, "peer")}
	p.Balancer.Do(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(p.Peer.Handle)}))
		setUp(t, balancer)
	})
	p.Peer.Do(t, func() { setUp(t, peer...) })
	return p
}

// NeedRoot skips the test when it is not run as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and loads eBPF programs")
	}
}

func setUp(t testing.TB, addresses ...string) {
	t.Helper()
	for _, name := range []string{"lo", "eth0"} {
		link, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(link))
		if name == "lo" {
			continue
		}
		for _, a := range addresses {
			AddAddress(t, link, a)
		}
	}
}

// AddAddress gives a link of the thread's namespace an address, which can be used at once: an
// IPv6 one is not first looked for at others.
func AddAddress(t testing.TB, link netlink.Link, cidr string) {
	t.Helper()
	address, err := netlink.ParseAddr(cidr)
	must(t, err)
	if address.IP.To4() == nil {
		address.Flags = unix.IFA_F_NODAD
	}
	must(t, netlink.AddrAdd(link, address))
}

func newNamespace(t testing.TB, role string) Namespace {
	t.Helper()
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	n := Namespace{Name: fmt.Sprintf("t-agent-%s-%s", hex.EncodeToString(random[:]), role)}
	onThread(t, func() error {
		handle, err := netns.NewNamed(n.Name)
		n.Handle = handle
		return err
	})
	t.Cleanup(func() {
		_ = n.Handle.Close()
		if err := netns.DeleteNamed(n.Name); err != nil {
			t.Errorf("remove namespace %s: %v", n.Name, err)
		}
	})
	return n
}

// Do runs f on a thread in the namespace. Sockets that f opens stay in it,
// goroutines that it starts are not.
func (n Namespace) Do(t testing.TB, f func()) {
	t.Helper()
	onThread(t, func() error {
		if err := netns.Set(n.Handle); err != nil {
			return fmt.Errorf("enter %s: %w", n.Name, err)
		}
		f()
		return nil
	})
}

// Start starts a command in the namespace; only its network is another.
func (n Namespace) Start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	n.Do(t, func() { must(t, cmd.Start()) }) // a child has its thread's namespace
}

// onThread runs f on a thread that goes back to its namespace or ends.
func onThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		failed := true
		runtime.LockOSThread()
		before, err := netns.Get()
		if err != nil {
			done <- err
			return // still locked: the thread ends with the goroutine
		}
		defer before.Close()
		defer func() { // also when f ends the goroutine by t.FailNow
			if err := netns.Set(before); err == nil {
				runtime.UnlockOSThread()
			}
			if failed {
				done <- fmt.Errorf("ended early")
			}
		}()
		err = f()
		failed = false
		done <- err
	}()
	must(t, <-done)
}

// BPFFS mounts a bpffs of its own and returns its directory.
func BPFFS(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "bpf")
	must(t, os.Mkdir(dir, 0o700))
	must(t, unix.Mount("bpf", dir, "bpf", 0, ""))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// Link returns the namespace's eth0.
func (n Namespace) Link(t testing.TB) netlink.Link {
	t.Helper()
	var link netlink.Link
	n.Do(t, func() {
		var err error
		link, err = netlink.LinkByName("eth0")
		must(t, err)
	})
	return link
}

// SetMAC changes the MAC of the namespace's eth0.
func (n Namespace) SetMAC(t testing.TB, mac string) {
	t.Helper()
	address, err := net.ParseMAC(mac)
	must(t, err)
	n.Do(t, func() {
		link, err := netlink.LinkByName("eth0")
		must(t, err)
		must(t, netlink.LinkSetHardwareAddr(link, address))
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
