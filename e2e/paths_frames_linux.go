package e2e

import (
	"net"
	"net/netip"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/e2e/oracle"
)

// build makes a frame from the client's machine to the balancer.
func (p *paths) build(parts ...gopacket.SerializableLayer) []byte {
	GinkgoHelper()
	return p.buildFrom("client", parts...)
}

// buildFrom makes one from another machine, with lengths and checksums filled in.
func (p *paths) buildFrom(machine string, parts ...gopacket.SerializableLayer) []byte {
	GinkgoHelper()
	kind := layers.EthernetTypeIPv4
	if _, six := parts[0].(*layers.IPv6); six {
		kind = layers.EthernetTypeIPv6
	}
	for _, part := range parts {
		l4, ok := part.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		})
		if ok {
			Expect(l4.SetNetworkLayerForChecksum(parts[0].(gopacket.NetworkLayer))).To(Succeed())
		}
	}
	eth := &layers.Ethernet{SrcMAC: p.macs[machine], DstMAC: p.macs["lb"], EthernetType: kind}
	data := serializeFrame(gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append([]gopacket.SerializableLayer{eth}, parts...)...)
	return data[:14+readFrame(data).PacketLength()] // without padding
}

func serializeFrame(options gopacket.SerializeOptions, parts ...gopacket.SerializableLayer) []byte {
	GinkgoHelper()
	b := gopacket.NewSerializeBuffer()
	Expect(gopacket.SerializeLayers(b, options, parts...)).To(Succeed())
	return b.Bytes()
}

// headerOf is an IP header of either family.
func headerOf(from, to netip.Addr, protocol layers.IPProtocol) gopacket.SerializableLayer {
	if from.Is6() {
		return &layers.IPv6{Version: 6, HopLimit: 57, TrafficClass: 0x48, FlowLabel: 0x1234, NextHeader: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	}
	return &layers.IPv4{Version: 4, TTL: 57, TOS: 0x48, Id: 4711, Flags: layers.IPv4DontFragment, Protocol: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
}

// datagram is a client's UDP packet.
func (p *paths) datagram(from, to netip.AddrPort, payload string) []byte {
	GinkgoHelper()
	return p.build(headerOf(from.Addr(), to.Addr(), layers.IPProtocolUDP),
		&layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}, gopacket.Payload(payload))
}

// segment is a client's TCP packet, with flags named by their letters: S, A, F, R, P.
func (p *paths) segment(from, to netip.AddrPort, flags string, options ...layers.TCPOption) []byte {
	GinkgoHelper()
	tcp := &layers.TCP{SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), Seq: 1000, Ack: 2000, Window: 512, Options: options}
	for _, flag := range flags {
		switch flag {
		case 'S':
			tcp.SYN = true
		case 'A':
			tcp.ACK = true
		case 'F':
			tcp.FIN = true
		case 'R':
			tcp.RST = true
		case 'P':
			tcp.PSH = true
		}
	}
	return p.build(headerOf(from.Addr(), to.Addr(), layers.IPProtocolTCP), tcp)
}

// send puts frames on the wire of a machine, as they are.
func (p *paths) send(machine string, frames ...[]byte) {
	GinkgoHelper()
	p.sendOn(machine, "eth0", frames...)
}

// sendToBalancer puts frames on the balancer's own cable: some switches (Linux' bridge
// with br_netfilter) do not carry IP headers that lie.
func (p *paths) sendToBalancer(frames ...[]byte) {
	GinkgoHelper()
	p.sendOn("switch", "lb", frames...)
}

func (p *paths) sendOn(machine, name string, frames ...[]byte) {
	GinkgoHelper()
	_, err := in(p.t.Name+"-"+machine, func() (any, error) {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return nil, err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		for _, frame := range frames {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	Expect(err).NotTo(HaveOccurred())
}

// readFrame reads a frame that a spec has built.
func readFrame(data []byte) oracle.Frame {
	GinkgoHelper()
	f, err := oracle.Read(data)
	Expect(err).NotTo(HaveOccurred())
	return f
}

// answering has backends send datagrams back on the service's port, under the VIP and under their own addresses.
func (p *paths) answering(f ipFamily, names ...string) {
	GinkgoHelper()
	for _, name := range names {
		p.echo(name, netip.AddrPortFrom(f.vip, pathsPort))
		p.echo(name, netip.AddrPortFrom(f.backends[name], pathsPort))
	}
}

// exchange sends datagrams from a port of the client's and expects each back.
func (p *paths) exchange(from, to netip.AddrPort, payloads ...string) {
	GinkgoHelper()
	p.exchangeFrom("client", from, to, payloads...)
}

// exchangeFrom does so from another machine.
func (p *paths) exchangeFrom(machine string, from, to netip.AddrPort, payloads ...string) {
	GinkgoHelper()
	conn, err := p.machine(machine).Guest.Dial(GinkgoT().Context(), "udp", from.String(), to.String())
	Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	for _, payload := range payloads {
		Expect(conn.SetDeadline(time.Now().Add(askLimit))).To(Succeed())
		_, err := conn.Write([]byte(payload))
		Expect(err).NotTo(HaveOccurred())
		buffer := make([]byte, 65536)
		n, err := conn.Read(buffer)
		Expect(err).NotTo(HaveOccurred(), "the answer to %d bytes from %s", len(payload), from)
		Expect(string(buffer[:n])).To(Equal(payload))
	}
}

// counted is what the agent counted for the service under test.
func (p *paths) counted() api.ServiceCounters {
	GinkgoHelper()
	counters, err := p.agent.Counters(GinkgoT().Context())
	Expect(err).NotTo(HaveOccurred())
	for _, c := range counters.Services {
		if c.ID == pathsID {
			return c
		}
	}
	Fail("the agent has no counters of the service")
	return api.ServiceCounters{}
}

// countedSince are the counters without those of before, the backends' by address.
func countedSince(before, now api.ServiceCounters) (service api.Traffic, backends map[netip.AddrPort]api.Traffic) {
	minus := func(a, b api.Traffic) api.Traffic {
		return api.Traffic{
			RxPackets: a.RxPackets - b.RxPackets, RxBytes: a.RxBytes - b.RxBytes,
			TxPackets: a.TxPackets - b.TxPackets, TxBytes: a.TxBytes - b.TxBytes, Connections: a.Connections - b.Connections,
		}
	}
	backends = map[netip.AddrPort]api.Traffic{}
	for _, b := range now.Backends {
		backends[b.Address] = b.Traffic
	}
	for _, b := range before.Backends {
		backends[b.Address] = minus(backends[b.Address], b.Traffic)
	}
	return minus(now.Traffic, before.Traffic), backends
}

// countPacket adds captured packets up as a counter must have.
func countPacket(t *api.Traffic, request bool, f oracle.Frame) {
	if request {
		t.RxPackets, t.RxBytes = t.RxPackets+1, t.RxBytes+uint64(f.Length())
	} else {
		t.TxPackets, t.TxBytes = t.TxPackets+1, t.TxBytes+uint64(f.Length())
	}
}
