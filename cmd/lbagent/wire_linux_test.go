package main

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l4lab/agent/testnet"
)

// wire sends and receives frames on the peer's end of the balancer's veth.
type wire struct {
	fd      int
	index   int
	own, to net.HardwareAddr
	mu      sync.Mutex // of last
	last    time.Time
}

// frame is a DSR packet that the balancer sent.
type frame struct {
	source  string // MAC
	backend netip.Addr
	// number is the TCP sequence number of the inner packet.
	number uint32
}

func newWire(t *testing.T, peer testnet.Namespace, balancer net.HardwareAddr) *wire {
	t.Helper()
	w := &wire{to: balancer}
	peer.Do(t, func() {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		w.index, w.own = eth0.Attrs().Index, eth0.Attrs().HardwareAddr
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: w.index}); err != nil {
			t.Error(err)
		}
		if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	timeout := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(w.fd) })
	return w
}

// send sends a TCP segment from a client: the first is a SYN, the others are not.
func (w *wire) send(t *testing.T, source, dest netip.AddrPort, number uint32) {
	t.Helper()
	w.sendTCP(t, source, dest, layers.TCP{Seq: number, SYN: number == 0, ACK: number > 0})
}

// sendTCP sends a TCP segment with the header's flags.
func (w *wire) sendTCP(t *testing.T, source, dest netip.AddrPort, header layers.TCP) {
	t.Helper()
	tcp := &header
	tcp.SrcPort, tcp.DstPort, tcp.Window = layers.TCPPort(source.Port()), layers.TCPPort(dest.Port()), 65535
	ether := &layers.Ethernet{SrcMAC: w.own, DstMAC: w.to, EthernetType: layers.EthernetTypeIPv4}
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	} = &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: source.Addr().AsSlice(), DstIP: dest.Addr().AsSlice()}
	if dest.Addr().Is6() {
		ether.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: source.Addr().AsSlice(), DstIP: dest.Addr().AsSlice()}
	}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Error(err)
	}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ether, ip, tcp)
	if err == nil {
		_, err = unix.Write(w.fd, buffer.Bytes())
	}
	if err != nil {
		t.Errorf("send packet %d: %v", header.Seq, err)
	}
	w.mu.Lock()
	w.last = time.Now()
	w.mu.Unlock()
}

// next returns the next DSR packet; ok is false when none came for a while.
func (w *wire) next() (f frame, ok bool) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(w.fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return frame{}, false
		}
		if l, isLink := from.(*unix.SockaddrLinklayer); isLink && l.Pkttype == unix.PACKET_OUTGOING {
			continue // our own
		}
		packet := gopacket.NewPacket(buffer[:n], layers.LayerTypeEthernet, gopacket.Default)
		ips := 0
		for _, layer := range packet.Layers() {
			switch l := layer.(type) {
			case *layers.Ethernet:
				f.source = l.SrcMAC.String()
			case *layers.IPv4:
				if ips++; ips == 1 {
					f.backend, _ = netip.AddrFromSlice(l.DstIP)
				}
			case *layers.IPv6:
				if ips++; ips == 1 {
					f.backend, _ = netip.AddrFromSlice(l.DstIP)
				}
			case *layers.TCP:
				f.number = l.Seq
			}
		}
		if ips == 2 {
			return f, true
		}
	}
}

// receive waits for one DSR packet.
func (w *wire) receive(t *testing.T) frame {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if f, ok := w.next(); ok {
			return f
		}
	}
	t.Fatal("the balancer sent nothing")
	return frame{}
}

// collect receives until nothing has been sent nor received for a second, and
// returns the backends of the packets by their numbers.
func (w *wire) collect() map[uint32]netip.Addr {
	got := make(map[uint32]netip.Addr)
	begin := time.Now()
	for {
		f, ok := w.next()
		if ok {
			got[f.number] = f.backend
			continue
		}
		w.mu.Lock()
		last := w.last
		w.mu.Unlock()
		if last.Before(begin) {
			last = begin
		}
		if time.Since(last) > time.Second {
			return got
		}
	}
}
