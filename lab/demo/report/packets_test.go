package report

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	"l4lab/lab/demo"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

func macs() map[string]string {
	return map[string]string{
		"client": "02:00:00:00:00:64", "lb": "02:00:00:00:00:01", "be1": "02:00:00:00:00:0a",
		"be2": "02:00:00:00:00:14", "be3": "02:00:00:00:00:1e", "be4": "02:00:00:00:00:28",
	}
}

func mac(machine string) net.HardwareAddr {
	m, err := net.ParseMAC(macs()[machine])
	if err != nil {
		panic(err)
	}
	return m
}

// header is what a packet of the passages has.
type header struct {
	from, to           string // machines on the wire
	src, dst           string
	sport, dport       uint16
	ttl                uint8
	outerSrc, outerDst string
	payload            string
}

func frame(t *testing.T, h header) []byte {
	t.Helper()
	ip := func(src, dst string, ttl uint8, protocol layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, IHL: 5, TTL: ttl, Id: 7, Protocol: protocol, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
	}
	inner := ip(h.src, h.dst, h.ttl, layers.IPProtocolTCP)
	tcp := &layers.TCP{SrcPort: layers.TCPPort(h.sport), DstPort: layers.TCPPort(h.dport), Seq: 100, Ack: 200, PSH: true, ACK: true}
	if err := tcp.SetNetworkLayerForChecksum(inner); err != nil {
		t.Fatal(err)
	}
	list := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: mac(h.from), DstMAC: mac(h.to), EthernetType: layers.EthernetTypeIPv4}}
	if h.outerSrc != "" {
		list = append(list, ip(h.outerSrc, h.outerDst, 64, layers.IPProtocolIPv4))
	}
	list = append(list, inner, tcp, gopacket.Payload(h.payload))
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// passage is a request and its reply as the places of a lab would see them, with
// be1 decapsulating at XDP.
func passage(t *testing.T, mode topology.Mode) demo.Passage {
	t.Helper()
	const client, vip, lb, be = "20.1.1.100", "40.1.1.1", "20.1.1.1", "20.1.1.10"
	ask, answer := "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"
	asked := header{from: "client", to: "lb", src: client, dst: vip, sport: 1111, dport: 80, ttl: 64, payload: ask}
	wire := []header{asked,
		{from: "lb", to: "be1", src: lb, dst: be, sport: 40000, dport: 80, ttl: 63, payload: ask},
		{from: "be1", to: "lb", src: be, dst: lb, sport: 80, dport: 40000, ttl: 64, payload: answer},
		{from: "lb", to: "client", src: vip, dst: client, sport: 80, dport: 1111, ttl: 63, payload: answer},
	}
	var inside []header
	if mode == topology.DSR {
		wrapped := asked
		wrapped.from, wrapped.to, wrapped.outerSrc, wrapped.outerDst = "lb", "be1", lb, be
		bare := wrapped
		bare.outerSrc, bare.outerDst = "", ""
		wire = []header{asked, wrapped, {from: "be1", to: "client", src: vip, dst: client, sport: 80, dport: 1111, ttl: 64, payload: answer}}
		inside = []header{bare}
	}
	p := demo.Passage{Mode: mode, Backend: "be1"}
	var recordings []capture.Recording
	for _, place := range []capture.Place{{Machine: "client", Port: true}, {Machine: "lb", Port: true}, {Machine: "be1", Port: true}, {Machine: "be1"}} {
		seen := wire
		if !place.Port {
			seen = inside
		}
		r := capture.Recording{Place: place}
		for i, h := range seen {
			if h.from != place.Machine && h.to != place.Machine {
				continue
			}
			data := frame(t, h)
			r.Frames = append(r.Frames, capture.Frame{
				Time: time.Unix(0, int64(i)*1e6), Data: data, Length: len(data), Outgoing: (h.to == place.Machine) == place.Port,
			})
		}
		recordings = append(recordings, r)
		p.Hops = append(p.Hops, demo.Hop{Place: place, Packets: evidence.Decode(place, r.Frames)})
	}
	var file bytes.Buffer
	if err := pcapng.Write(&file, recordings); err != nil {
		t.Fatal(err)
	}
	p.Pcapng = file.Bytes()
	return p
}
