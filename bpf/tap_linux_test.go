package bpf

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// tap is an interface of a namespace of its own, of which a file descriptor is the
// card: what is written to it is what the card has received. The program under test is
// at its ingress.
type tap struct {
	*decapsulator
	file, watch int
}

func newTap(t *testing.T, flags uint16) *tap {
	requireRoot(t)
	runtime.LockOSThread()
	home, err := netns.Get()
	must(t, err)
	inside, err := netns.New()
	must(t, err)
	t.Cleanup(func() {
		must(t, netns.Set(home))
		must(t, errors.Join(home.Close(), inside.Close()))
		runtime.UnlockOSThread()
	})
	d := decapsulators["TC"](t)
	config, four := decapFrom6(backendNode6, lbAddress6), decapFrom(backendNode, lbAddress)
	config.Address4, config.Source4, config.Mask4 = four.Address4, four.Source4, four.Mask4
	must(t, d.config.Put(uint32(0), config))

	c := &tap{decapsulator: d}
	c.file, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("needs /dev/net/tun: packets as a card merges them")
	}
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(c.file)) })
	request, err := unix.NewIfreq("tap0")
	must(t, err)
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
	must(t, unix.IoctlIfreq(c.file, unix.TUNSETIFF, request))
	iface, err := netlink.LinkByName("tap0")
	must(t, err)
	must(t, netlink.LinkSetUp(iface))
	attached, err := link.AttachTCX(link.TCXOptions{
		Interface: iface.Attrs().Index, Program: d.program, Attach: ebpf.AttachTCXIngress,
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skipf("needs TCX: %v", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, attached.Close()) })
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	c.watch, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, 0)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(c.watch)) })
	must(t, unix.Bind(c.watch, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Attrs().Index}))
	return c
}

// in is the interface in a subtest.
func (c tap) in(t *testing.T) *tap {
	d := *c.decapsulator
	d.t, c.decapsulator = t, &d
	return &c
}

// What a card says of a packet, struct virtio_net_hdr of linux/virtio_net.h: it was
// merged of segments of a size, how many it does not say.
const (
	needsChecksum = 1
	mergedTCP4    = 1
	mergedTCP6    = 4
	mergedUDP     = 5
)

// receive has the card receive a frame; kind is 0 of one that it has not merged.
func (c *tap) receive(frame []byte, kind uint8, size uint16) {
	c.t.Helper()
	header := make([]byte, 10)
	header[1] = kind
	if kind != 0 {
		binary.NativeEndian.PutUint16(header[2:], uint16(min(len(frame), 128)))
		binary.NativeEndian.PutUint16(header[4:], size)
	}
	if kind == mergedUDP {
		_, at := transportOf(frame[14+outerLength(frame):])
		header[0] = needsChecksum
		binary.NativeEndian.PutUint16(header[6:], uint16(14+outerLength(frame)+at))
		binary.NativeEndian.PutUint16(header[8:], 6)
	}
	_, err := unix.Write(c.file, append(header, frame...))
	must(c.t, err)
}

func outerLength(frame []byte) int {
	if frame[14]>>4 == 6 {
		return 40
	}
	return 20
}

// seen counts the packets that the stack has had from the card since it was last asked.
func (c *tap) seen() (packets int) {
	c.t.Helper()
	buffer := make([]byte, 1<<16)
	for {
		_, from, err := unix.Recvfrom(c.watch, buffer, 0)
		if errors.Is(err, unix.EAGAIN) {
			return packets
		}
		must(c.t, err)
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
			packets++
		}
	}
}

// holdBack has the stack wait for more to merge.
func (c *tap) holdBack(d time.Duration) {
	c.t.Helper()
	sys := c.t.TempDir()
	must(c.t, unix.Mount("sysfs", sys, "sysfs", 0, ""))
	c.t.Cleanup(func() { must(c.t, unix.Unmount(sys, unix.MNT_DETACH)) })
	must(c.t, os.WriteFile(filepath.Join(sys, "class/net/tap0/gro_flush_timeout"), strconv.AppendInt(nil, d.Nanoseconds(), 10), 0))
}
