package demo

import (
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"l4lab/lab/capture"
	"l4lab/topology"
)

// framesAt are the frames of flows at a place: a request and its reply each.
func (f *fakeLab) framesAt(place capture.Place, flows []flow) (frames []capture.Frame) {
	vip := f.t.Services[0].Frontend()
	for _, x := range flows {
		backend := netip.AddrPortFrom(f.t.Nodes[x.backend].Address, 80)
		inside := netip.AddrPortFrom(f.t.Nodes["lb"].Address, x.client.Port())
		request, reply := f.frame("client", "lb", x.client, vip), f.frame("lb", "client", vip, x.client)
		forth, back := f.frame("lb", x.backend, inside, backend), f.frame(x.backend, "lb", backend, inside)
		if x.mode == topology.DSR {
			forth, reply = f.encapsulated(x), f.frame(x.backend, "client", vip, x.client)
		}
		switch {
		case place.Machine == "client":
			frames = append(frames, leaving(request), arriving(reply))
		case place.Machine == "lb":
			frames = append(frames, arriving(request), leaving(forth))
			if x.mode == topology.SNAT {
				frames = append(frames, arriving(back), leaving(reply))
			} else if f.leaks {
				frames = append(frames, arriving(f.frame(x.backend, "lb", vip, x.client)))
			}
		case place.Machine != x.backend:
		case x.mode == topology.SNAT:
			frames = append(frames, arriving(forth), leaving(back))
		case place.Port:
			frames = append(frames, arriving(forth), leaving(reply))
		default:
			frames = append(frames, arriving(request), leaving(reply))
		}
	}
	return frames
}

// On a port of the switch, what arrives at the machine is outgoing.
func arriving(data []byte) capture.Frame {
	return capture.Frame{Data: data, Length: len(data), Outgoing: true}
}

func leaving(data []byte) capture.Frame { return capture.Frame{Data: data, Length: len(data)} }

func (f *fakeLab) frame(from, to string, src, dst netip.AddrPort) []byte {
	return serialize(f.ethernet(from, to), append(packet(src, dst), gopacket.Payload("hello"))...)
}

func (f *fakeLab) encapsulated(x flow) []byte {
	outer := ipv4(f.t.Nodes["lb"].Address, f.t.Nodes[x.backend].Address, layers.IPProtocolIPv4)
	inner := packet(x.client, f.t.Services[0].Frontend())
	return serialize(f.ethernet("lb", x.backend), append([]gopacket.SerializableLayer{outer}, append(inner, gopacket.Payload("hello"))...)...)
}

func (f *fakeLab) ethernet(from, to string) gopacket.SerializableLayer {
	return &layers.Ethernet{SrcMAC: f.mac(from), DstMAC: f.mac(to), EthernetType: layers.EthernetTypeIPv4}
}

func ipv4(src, dst netip.Addr, protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

func packet(src, dst netip.AddrPort) []gopacket.SerializableLayer {
	ip := ipv4(src.Addr(), dst.Addr(), layers.IPProtocolTCP)
	tcp := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), ACK: true}
	_ = tcp.SetNetworkLayerForChecksum(ip)
	return []gopacket.SerializableLayer{ip, tcp}
}

func serialize(first gopacket.SerializableLayer, rest ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{first}, rest...)
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		panic(err)
	}
	return b.Bytes()
}
