package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace locks the test to a thread in a namespace of its own, with a
// veth pair a-b that is up. The namespace dies with the thread.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("new namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("add veth: %v", err)
	}
	// The end that is set up last can send at once; the other one only after
	// the kernel's link watch has run, and loses until then what is sent.
	for _, name := range []string{"b", "a"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
}

// testType marks the test's frames apart from what the kernel sends itself (IPv6).
const testType = 0x88b5

func testFrame(number, length int) []byte {
	f := make([]byte, length)
	copy(f, net.HardwareAddr{2, 0, 0, 0, 0, 2})
	copy(f[6:], net.HardwareAddr{2, 0, 0, 0, 0, 1})
	binary.BigEndian.PutUint16(f[12:], testType)
	binary.BigEndian.PutUint32(f[14:], uint32(number))
	return f
}

// onlyTestFrames keeps `keep` bytes of each test frame.
func onlyTestFrames(keep uint32) []Instruction {
	return []Instruction{
		{Op: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
		{Op: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: testType, Jf: 1},
		{Op: unix.BPF_RET | unix.BPF_K, K: keep},
		{Op: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

type sender struct {
	fd      int
	address unix.SockaddrLinklayer
}

func newSender(t *testing.T, iface string) *sender {
	t.Helper()
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	})
	return &sender{fd: fd, address: unix.SockaddrLinklayer{Ifindex: ifi.Index, Protocol: networkOrder(testType)}}
}

func (s *sender) send(t *testing.T, frame []byte) {
	t.Helper()
	if err := unix.Sendto(s.fd, frame, 0, &s.address); err != nil {
		t.Fatalf("send: %v", err)
	}
}

func start(t *testing.T, iface string, opts Options) *Session {
	t.Helper()
	s, err := Start(iface, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBothEndsOfAVethSeeEveryFrameWithItsDirection(t *testing.T) {
	inNamespace(t)
	opts := Options{Filter: onlyTestFrames(1 << 18)}
	a, b := start(t, "a", opts), start(t, "b", opts)
	tx := newSender(t, "a")
	const count = 500
	before := time.Now()
	for i := range count {
		tx.send(t, testFrame(i, 60+i))
	}
	for _, end := range []struct {
		session  *Session
		outgoing bool
	}{{a, true}, {b, false}} {
		result, err := end.session.Stop()
		if err != nil {
			t.Fatal(err)
		}
		if result != (Result{Frames: count}) {
			t.Fatalf("%s: %+v, want %d frames, none dropped", end.session.name, result, count)
		}
		for i, f := range end.session.Frames() {
			if !bytes.Equal(f.Data, testFrame(i, 60+i)) || f.Length != 60+i || f.Truncated() {
				t.Fatalf("%s: frame %d is not what was sent: %d bytes of %d", end.session.name, i, len(f.Data), f.Length)
			}
			if f.Outgoing != end.outgoing {
				t.Fatalf("%s: frame %d says %s", end.session.name, i, f.Direction())
			}
			if f.Time.Before(before) || f.Time.After(time.Now()) {
				t.Fatalf("%s: frame %d has time %v", end.session.name, i, f.Time)
			}
		}
	}
}

func TestWaitSeesAFrameWithoutStop(t *testing.T) {
	inNamespace(t)
	s := start(t, "b", Options{Filter: onlyTestFrames(1 << 18)})
	newSender(t, "a").send(t, testFrame(1, 60))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Wait(ctx, func(frames []Frame) bool { return len(frames) == 1 }); err != nil {
		t.Error(err)
	}
	if _, err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestFilterCutsFramesAndLengthStillTellsTheTruth(t *testing.T) {
	inNamespace(t)
	s := start(t, "b", Options{Filter: onlyTestFrames(20)})
	newSender(t, "a").send(t, testFrame(1, 1000))
	if _, err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	frames := s.Frames()
	if len(frames) != 1 || len(frames[0].Data) != 20 || frames[0].Length != 1000 || !frames[0].Truncated() {
		t.Errorf("frames = %+v, want one with 20 of 1000 bytes", frames)
	}
}

func TestLossIsCounted(t *testing.T) {
	inNamespace(t)
	s := start(t, "b", Options{Filter: onlyTestFrames(1 << 18), RingBytes: 2 * blockBytes})
	// A reader that holds the lock cannot empty the ring: it must overflow.
	s.mu.Lock()
	tx := newSender(t, "a")
	const count = 2000
	for i := range count {
		tx.send(t, testFrame(i, 1500))
	}
	s.mu.Unlock()
	result, err := s.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if result.Dropped == 0 || result.Frames == 0 || result.Frames+result.Dropped != count {
		t.Errorf("result = %+v, want both parts of %d", result, count)
	}
}

func TestAFrameWhoseChecksumTheKernelOwesIsMarked(t *testing.T) {
	inNamespace(t)
	link, err := netlink.LinkByName("a")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr("20.1.1.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		t.Fatal(err)
	}
	if err := netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.IPv4(20, 1, 1, 9), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9},
	}); err != nil {
		t.Fatal(err)
	}
	s := start(t, "b", Options{})
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(20, 1, 1, 9), Port: 9})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("unsummed")); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var found Frame
	err = s.Wait(ctx, func(frames []Frame) bool {
		for _, f := range frames {
			if bytes.HasSuffix(f.Data, []byte("unsummed")) {
				found = f
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	if !found.ChecksumPending {
		t.Error("a veth's transmit offload leaves the checksum open, but the frame is not marked")
	}
	if _, err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestStartNamesAnInterfaceThatIsNotThere(t *testing.T) {
	inNamespace(t)
	_, err := Start("nosuch", Options{})
	if !errors.Is(err, unix.ENODEV) {
		t.Errorf("Start = %v, want ENODEV", err)
	}
}

func TestStopLeavesNoFileOpen(t *testing.T) {
	inNamespace(t)
	count := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	first := start(t, "a", Options{}) // lets the runtime open its poller
	if _, err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	before := count()
	for range 5 {
		if _, err := start(t, "a", Options{}).Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after != before {
		t.Errorf("%d files open, were %d", after, before)
	}
}
