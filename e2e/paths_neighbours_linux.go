package e2e

import (
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/e2e/oracle"
)

// neighbours is about addresses that move from one machine to another.
func (p *paths) neighbours() { p.families(p.neighboursOf) }

func (p *paths) neighboursOf(of func() ipFamily) {
	It("follows a backend's address to the machine that announces it", Label("dsr"), func() {
		f := of()
		moving := f.stranger.Next().Next().Next()
		length := map[bool]string{true: "/64", false: "/24"}[f.own.Is6()]
		have := func(machine, verb string) {
			GinkgoHelper()
			args := []string{"address", verb, moving.String() + length, "dev", "eth0"}
			if f.own.Is6() && verb == "add" {
				args = append(args, "nodad")
			}
			p.ipIn(machine, args...)
		}
		have("be1", "add")
		s := p.serving(f, "udp", nil)
		s.Backends = slices.Clone(s.Backends[:1])
		s.Backends[0].Address = netip.AddrPortFrom(moving, pathsPort)
		_, err := p.agent.PutService(GinkgoT().Context(), s.Service)
		Expect(err).NotTo(HaveOccurred())
		at := func(machine string) {
			GinkgoHelper()
			Eventually(func() string { return p.neighbour(moving) }).Should(Equal(p.macs[machine].String()))
			from := netip.AddrPortFrom(f.stranger, p.from(1))
			leg := oracle.Leg{From: p.macs["lb"], To: p.macs[machine]}
			p.watch(func() { p.send("client", p.datagram(from, s.Frontend, "where?")) },
				eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame { return oracle.Tunnelled(r, leg, f.own, moving) }))
		}
		at("be1")
		have("be1", "delete")
		have("be2", "add")
		DeferCleanup(have, "be2", "delete")
		p.send("be2", p.announcement(moving, "be2"))
		at("be2")
	})
}

// neighbour is the MAC that the agent has for an address.
func (p *paths) neighbour(address netip.Addr) string {
	GinkgoHelper()
	all, err := p.agent.Neighbours(GinkgoT().Context())
	Expect(err).NotTo(HaveOccurred())
	for _, n := range all {
		if n.Address == address {
			return n.MAC
		}
	}
	return ""
}

// announcement is a machine's word that an address is its own: gratuitous ARP (RFC 5227), or an
// unsolicited neighbour advertisement (RFC 4861).
func (p *paths) announcement(address netip.Addr, machine string) []byte {
	GinkgoHelper()
	mac := p.macs[machine]
	if address.Is4() {
		eth := &layers.Ethernet{SrcMAC: mac, DstMAC: []byte{255, 255, 255, 255, 255, 255}, EthernetType: layers.EthernetTypeARP}
		return serializeFrame(gopacket.SerializeOptions{}, eth, &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPReply,
			SourceHwAddress: mac, SourceProtAddress: address.AsSlice(), DstHwAddress: mac, DstProtAddress: address.AsSlice(),
		})
	}
	eth := &layers.Ethernet{SrcMAC: mac, DstMAC: []byte{0x33, 0x33, 0, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv6}
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: address.AsSlice(), DstIP: netip.IPv6LinkLocalAllNodes().AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
	Expect(icmp.SetNetworkLayerForChecksum(ip)).To(Succeed())
	const override = 0x20
	return serializeFrame(gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, icmp, &layers.ICMPv6NeighborAdvertisement{
		Flags: override, TargetAddress: address.AsSlice(),
		Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: mac}},
	})
}
