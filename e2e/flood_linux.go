package e2e

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// floodSize is how many flows must begin: more than the table of established ones
// holds, and several times what the one of new ones does (bpf/lib/maps.h).
const floodSize = 140_000

// flooded is about connections that are idle while somebody sends first packets
// as fast as they go, each of another flow.
func (b *balanced) flooded() {
	for _, mode := range []string{"dsr", "snat"} {
		It("pushes none of 50 idle connections out in "+mode, Label(mode), func() {
			b.needs(namespaces)
			to, id := frontends[mode](), map[string]uint32{"dsr": directID, "snat": translatedID}[mode]
			kept := b.keep(to, 50)
			before := b.begun(id)
			// In SNAT a part is lost before the balancer, whose wire has the answers, too.
			for first := 0; b.begun(id)-before < floodSize; first += floodSize / 4 {
				Expect(first).To(BeNumerically("<", 3*floodSize), "SYNs, and %d flows began", b.begun(id)-before)
				b.flood(to, first, floodSize/4)
			}
			// In DSR the hash would send the packets of a forgotten connection to the same backend.
			known := b.remembered(id)
			Expect(len(known)).To(BeNumerically("<", floodSize/3), "flows: the flood has a table of its own")
			for _, c := range kept {
				Expect(known).To(HaveKeyWithValue(c.local(), BeNumerically(">=", 3)), "packets of an idle connection")
			}
			Expect(all(kept)).To(BeEmpty())
		})
	}
}

// begun counts the new flows that came to a service, those that could not be had, too.
func (b *balanced) begun(id uint32) uint64 {
	GinkgoHelper()
	counters, err := b.agent.Counters(GinkgoT().Context())
	Expect(err).NotTo(HaveOccurred())
	n := counters.Drops["nat_exhausted"]
	for _, s := range counters.Services {
		if s.ID == id {
			n += s.Connections
		}
	}
	return n
}

// remembered are the packets of each client's flow in the connection table.
func (b *balanced) remembered(id uint32) map[netip.AddrPort]uint64 {
	GinkgoHelper()
	connections, err := b.agent.Connections(GinkgoT().Context(), id)
	Expect(err).NotTo(HaveOccurred())
	packets := make(map[netip.AddrPort]uint64, len(connections))
	for _, c := range connections {
		packets[c.Source] = c.RxPackets
	}
	return packets
}

// flood sends n SYNs from the client's machine: from 16 addresses of the lab's subnet that
// nobody has, and of each from another port every time. The first one has a number.
func (b *balanced) flood(to netip.AddrPort, first, n int) {
	GinkgoHelper()
	from, balancer := b.hardware("client"), b.hardware("lb")
	_, err := in(b.t.Name+"-client", func() (any, error) {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return nil, err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return nil, err
		}
		wire := &unix.SockaddrLinklayer{Ifindex: eth0.Index}
		source := b.t.Client.Address.As4()
		frame := make([]byte, 14+20+20)
		for i := first; i < first+n; i++ {
			source[3] = byte(200 + i%16)
			syn(frame, from, balancer, netip.AddrPortFrom(netip.AddrFrom4(source), uint16(1024+i/16)), to, uint32(i))
			for err = unix.ENOBUFS; errors.Is(err, unix.ENOBUFS); { // the wire is full
				err = unix.Sendto(fd, frame, 0, wire)
			}
			if err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	Expect(err).NotTo(HaveOccurred())
}

// hardware is the MAC of a machine's eth0.
func (b *balanced) hardware(machine string) net.HardwareAddr {
	GinkgoHelper()
	eth0, err := in(b.t.Name+"-"+machine, func() (*net.Interface, error) { return net.InterfaceByName("eth0") })
	Expect(err).NotTo(HaveOccurred())
	return eth0.HardwareAddr
}

// syn writes an Ethernet frame with a TCP SYN (RFC 9293) without options into 54 bytes.
func syn(frame []byte, source, dest net.HardwareAddr, from, to netip.AddrPort, sequence uint32) {
	clear(frame)
	be := binary.BigEndian
	copy(frame, dest)
	copy(frame[6:], source)
	be.PutUint16(frame[12:], unix.ETH_P_IP)
	ip, tcp := frame[14:34], frame[34:54]
	src, dst := from.Addr().As4(), to.Addr().As4()
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	be.PutUint16(ip[2:], 40)
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	be.PutUint16(ip[10:], internetChecksum(ip, 0))
	be.PutUint16(tcp, from.Port())
	be.PutUint16(tcp[2:], to.Port())
	be.PutUint32(tcp[4:], sequence)
	tcp[12], tcp[13] = 5<<4, 2 // five words, SYN
	be.PutUint16(tcp[14:], 64240)
	pseudo := uint32(unix.IPPROTO_TCP) + 20
	for _, a := range [][4]byte{src, dst} {
		pseudo += uint32(be.Uint16(a[:2])) + uint32(be.Uint16(a[2:]))
	}
	be.PutUint16(tcp[16:], internetChecksum(tcp, pseudo))
}

// internetChecksum is RFC 1071's, over an even number of bytes.
func internetChecksum(data []byte, sum uint32) uint16 {
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
