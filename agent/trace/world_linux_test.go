package trace

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
	"l4lab/agent/testnet"
)

// world is a data path with services of every kind, in both families, and the
// addresses and ports that packets are made of.
type world struct {
	maps     *datapath.Maps
	program  *ebpf.Program
	config   datapath.Config
	random   *rand.Rand
	families []family
	// ids are the backends'.
	ids []uint32
}

type family struct {
	own, other      netip.Addr
	vips            []netip.Addr
	clients         []netip.Addr
	backends        []netip.Addr // the last one's next hop does not answer
	allowed         netip.Prefix
	outer           netip.Prefix
	ids             []uint32
	frontends       []datapath.ServiceKey
	pool            []uint16
	ports, vipPorts []uint16
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	options := datapath.Options{Interface: "eth0", Index: pair.Balancer.Link(t).Attrs().Index, PinDir: filepath.Join(testnet.BPFFS(t), "lb")}
	w := &world{random: rand.New(rand.NewPCG(seed, 1))}
	pair.Balancer.Do(t, func() {
		d, err := datapath.Load(options)
		must(t, err)
		t.Cleanup(func() { must(t, d.Unload()) })
		must(t, d.Attach())
		at, err := d.Attachment()
		must(t, err)
		w.maps = d.Maps()
		w.program, err = ebpf.NewProgramFromID(ebpf.ProgramID(at.ProgramID))
		must(t, err)
	})
	t.Cleanup(func() { _ = w.program.Close() })
	w.config = datapath.DefaultConfig()
	w.config.MTU, w.config.MAC = 1500, datapath.MAC{2, 0, 0, 0, 0, 1}
	// Short, so that no age is older than the machine.
	w.config.Lifetimes = datapath.Lifetimes{TCPEstablished: 40 * time.Second, TCPSYN: 20 * time.Second,
		TCPClosing: 10 * time.Second, NonTCP: 20 * time.Second, Fragment: 10 * time.Second}
	w.families = []family{newFamily("20.1.1.%d", "40.1.1.%d", "172.16.0.0/16"), newFamily("fd00::%d", "fd40::%d", "fd16::/112")}
	w.config.Address4, w.config.Address6 = w.families[0].own, w.families[1].own
	must(t, w.maps.PutConfig(w.config))
	for i := range w.families {
		w.serve(t, &w.families[i], uint32(i))
	}
	return w
}

func newFamily(link, vips, outer string) family {
	at := func(format string, n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, n)) }
	f := family{own: at(link, 1), other: at(link, 9), outer: netip.MustParsePrefix(outer),
		pool: []uint16{40000, 40001, 40002}, ports: []uint16{1024, 40000, 40001, 50000}, vipPorts: []uint16{80, 81, 443, 53, 9999}}
	for n := range 3 {
		f.vips = append(f.vips, at(vips, n+1))
		f.backends = append(f.backends, at(link, 10*(n+1)))
		f.clients = append(f.clients, at(link, 100+n))
	}
	// Half of the clients are in it.
	f.allowed = netip.PrefixFrom(f.clients[0], f.clients[0].BitLen()-1).Masked()
	f.clients = append(f.clients, f.backends[0], f.backends[1])
	return f
}

// serve makes services of one family; those of the table with 0 slots have no backends.
func (w *world) serve(t *testing.T, f *family, number uint32) {
	t.Helper()
	for i, s := range []struct {
		vip      int
		port     uint16
		protocol datapath.Protocol
		service  datapath.Service
		backend  datapath.Backend
		backends int
	}{
		{0, 80, datapath.TCP, datapath.Service{Mode: datapath.DSR, TableSize: 251}, datapath.Backend{}, 3},
		{0, 0, datapath.TCP, datapath.Service{Mode: datapath.SNAT, TableSize: 251}, datapath.Backend{}, 3},
		{0, 53, datapath.UDP, datapath.Service{Mode: datapath.DSR, TableSize: 251}, datapath.Backend{Encap: datapath.L2}, 2},
		{1, 443, datapath.TCP, datapath.Service{Mode: datapath.SNAT, TableSize: 251, Affinity: 30 * time.Second, MSS: 1300}, datapath.Backend{}, 3},
		{1, 80, datapath.TCP, datapath.Service{Mode: datapath.DSR, TableSize: 251, Ranges: true}, datapath.Backend{Outer: f.outer}, 2},
		{1, 53, datapath.UDP, datapath.Service{Mode: datapath.SNAT, TableSize: 251, Ranges: true, Affinity: 30 * time.Second}, datapath.Backend{}, 3},
		{2, 80, datapath.TCP, datapath.Service{Mode: datapath.DSR}, datapath.Backend{}, 0},
		{2, 81, datapath.UDP, datapath.Service{Mode: datapath.DSR, TableSize: 251, Random: true}, datapath.Backend{}, 1},
	} {
		slot := number*16 + uint32(i)
		s.service.ID, s.service.Slot = slot+1, slot
		var list []maglev.Backend
		for b := range s.backends {
			id := slot*4 + uint32(b) + 1
			backend := s.backend
			backend.Address = netip.AddrPortFrom(f.backends[b], s.port)
			if s.service.Mode == datapath.SNAT && s.port != 0 {
				backend.Address = netip.AddrPortFrom(f.backends[b], s.port+8000)
			}
			backend.State, backend.ServiceID, backend.ServiceSlot = datapath.Active, s.service.ID, slot
			if !backend.Outer.IsValid() && backend.Encap == datapath.IPIP {
				backend.Outer = netip.PrefixFrom(f.own, f.own.BitLen())
			}
			must(t, w.maps.PutBackend(id, backend))
			w.ids, f.ids = append(w.ids, id), append(f.ids, id)
			list = append(list, maglev.Backend{ID: id, Address: backend.Address, Protocol: uint8(s.protocol), Weight: 1})
		}
		if len(list) > 0 {
			table, err := maglev.Table(list, s.service.TableSize)
			must(t, err)
			must(t, w.maps.PutTable(slot, table))
		}
		if s.service.Ranges {
			must(t, w.maps.PutSources(slot, []netip.Prefix{f.allowed}))
		}
		key := datapath.ServiceKey{Frontend: netip.AddrPortFrom(f.vips[s.vip], s.port), Protocol: s.protocol}
		must(t, w.maps.PutService(key, s.service))
		f.frontends = append(f.frontends, key)
	}
	for i, b := range f.backends[:2] {
		must(t, w.maps.PutNeighbour(b, datapath.MAC{2, 0, 0, 0, byte(number), byte(10 + i)}))
	}
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// packet is a random one, mostly of a VIP.
func (w *world) packet() api.TracePacket {
	f := pick(w.random, w.families...)
	p := api.TracePacket{Protocol: pick(w.random, "tcp", "tcp", "udp")}
	p.From = netip.AddrPortFrom(pick(w.random, f.clients...), pick(w.random, f.ports...))
	to := pick(w.random, f.frontends...)
	p.To = netip.AddrPortFrom(to.Frontend.Addr(), pick(w.random, to.Frontend.Port(), to.Frontend.Port(), pick(w.random, f.vipPorts...)))
	if w.random.IntN(4) > 0 {
		p.Protocol = to.Protocol.String()
	}
	switch w.random.IntN(10) {
	case 0:
		p.To = netip.AddrPortFrom(f.other, 80)
	case 1, 2:
		p.From = netip.AddrPortFrom(pick(w.random, f.backends...), pick[uint16](w.random, 80, 8443, 8053, 9999))
		p.To = netip.AddrPortFrom(f.own, pick(w.random, append(f.pool, 22, 50000)...))
	}
	headers := map[bool]int{true: 28, false: 48}[f.own.Is4()]
	if p.Protocol == "tcp" {
		p.Flags = pick(w.random, "S", "S", "A", "A", "SA", "FA", "R", "RA", "SF")
		headers += 12
	}
	p.Length = pick(w.random, headers, headers+100, 1460, 1461, 1480, 1481, 1500, 1501, 1600)
	p.MayFragment = f.own.Is4() && w.random.IntN(3) == 0
	return p
}

// remember puts random states of a packet's flow into the tables, or takes them out.
func (w *world) remember(t *testing.T, p api.TracePacket, now time.Duration) {
	t.Helper()
	protocol, err := datapath.ParseProtocol(p.Protocol)
	must(t, err)
	flow := datapath.Flow{Source: p.From, Dest: p.To, Protocol: protocol}
	if p.To.Addr() == w.config.Address4 || p.To.Addr() == w.config.Address6 {
		w.rememberReply(t, flow, now)
		return
	}
	if s, found, err := w.maps.Service(datapath.ServiceKey{Frontend: p.To, Protocol: protocol}); err == nil && found && s.Affinity > 0 {
		its := s.Slot*4 + 1 + w.random.Uint32N(3)
		must(t, w.maps.PutAffinity(p.From.Addr(), s.Slot, datapath.Affinity{
			BackendID: pick(w.random, its, its, w.backend(p.From.Addr())), LastSeen: now - pick(w.random, 0, time.Second, 35*time.Second)}))
	}
	must(t, w.maps.DeleteConn(flow))
	if w.random.IntN(3) == 0 {
		return
	}
	c := w.conn(p.From.Addr(), now)
	must(t, w.maps.PutConn(flow, c))
	b, there, err := w.maps.Backend(c.BackendID)
	must(t, err)
	if !there || c.Mode != datapath.SNAT {
		return
	}
	reply := datapath.Flow{Source: endpoint(b, flow), Dest: netip.AddrPortFrom(w.own(flow), c.NATPort), Protocol: protocol}
	must(t, w.maps.DeleteNAT(reply))
	n := datapath.NAT{Client: p.From, VIP: p.To, BackendID: c.BackendID, New: c.New}
	switch w.random.IntN(4) {
	case 0: // evicted
		return
	case 1: // another's
		n.Client = netip.AddrPortFrom(p.From.Addr(), 7)
	}
	must(t, w.maps.PutNAT(reply, n))
}

// rememberReply puts a way back, and a flow that may have it, into the tables.
func (w *world) rememberReply(t *testing.T, reply datapath.Flow, now time.Duration) {
	t.Helper()
	must(t, w.maps.DeleteNAT(reply))
	if w.random.IntN(4) == 0 {
		return
	}
	f := w.familyOf(reply.Source.Addr())
	n := datapath.NAT{Client: netip.AddrPortFrom(pick(w.random, f.clients...), pick(w.random, f.ports...)),
		VIP: netip.AddrPortFrom(pick(w.random, f.vips...), pick(w.random, f.vipPorts...)), BackendID: w.backend(reply.Source.Addr()), New: w.random.IntN(2) == 0}
	must(t, w.maps.PutNAT(reply, n))
	flow := datapath.Flow{Source: n.Client, Dest: n.VIP, Protocol: reply.Protocol}
	must(t, w.maps.DeleteConn(flow))
	if w.random.IntN(4) == 0 {
		return
	}
	c := w.conn(reply.Source.Addr(), now)
	if w.random.IntN(4) > 0 {
		c.Mode, c.BackendID, c.NATPort = datapath.SNAT, n.BackendID, reply.Dest.Port()
	}
	must(t, w.maps.PutConn(flow, c))
}

func (w *world) own(flow datapath.Flow) netip.Addr {
	if flow.Source.Addr().Is4() {
		return w.config.Address4
	}
	return w.config.Address6
}

// backend is any id of an address's family, now and then one that nobody has.
func (w *world) backend(a netip.Addr) uint32 {
	return pick(w.random, append(slices.Clone(w.familyOf(a).ids), 3000)...)
}

func (w *world) familyOf(a netip.Addr) *family {
	if a.Is4() {
		return &w.families[0]
	}
	return &w.families[1]
}

func (w *world) conn(of netip.Addr, now time.Duration) datapath.Conn {
	return datapath.Conn{
		LastSeen: now - pick(w.random, 0, 5*time.Second, 15*time.Second, 30*time.Second, 60*time.Second),
		WayBack:  now - pick(w.random, 0, 5*time.Second), BackendID: w.backend(of),
		NATPort: pick[uint16](w.random, 40000, 40001, 40002), Mode: pick(w.random, datapath.DSR, datapath.SNAT),
		Flags: datapath.FlowFlags(w.random.IntN(16)) & pick[datapath.FlowFlags](w.random, 1, 1, 15), New: w.random.IntN(3) == 0,
	}
}

// frame is the packet as it comes. Its source MAC is none, as in the flows that
// PutConn writes: it comes by the router by which they came.
func (w *world) frame(t *testing.T, p api.TracePacket) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: make(net.HardwareAddr, 6), DstMAC: w.config.MAC[:], EthernetType: layers.EthernetTypeIPv4}
	proto := map[string]layers.IPProtocol{"tcp": layers.IPProtocolTCP, "udp": layers.IPProtocolUDP}[p.Protocol]
	var ip interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	}
	header := 40
	if p.From.Addr().Is4() {
		v4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: p.From.Addr().AsSlice(), DstIP: p.To.Addr().AsSlice()}
		if !p.MayFragment {
			v4.Flags = layers.IPv4DontFragment
		}
		ip, header = v4, 20
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: p.From.Addr().AsSlice(), DstIP: p.To.Addr().AsSlice()}
	}
	var l4 gopacket.SerializableLayer
	if proto == layers.IPProtocolTCP {
		tcp := &layers.TCP{SrcPort: layers.TCPPort(p.From.Port()), DstPort: layers.TCPPort(p.To.Port()), Window: 512}
		for _, flag := range p.Flags {
			*map[rune]*bool{'S': &tcp.SYN, 'A': &tcp.ACK, 'F': &tcp.FIN, 'R': &tcp.RST}[flag] = true
		}
		must(t, tcp.SetNetworkLayerForChecksum(ip))
		l4, header = tcp, header+20
	} else {
		udp := &layers.UDP{SrcPort: layers.UDPPort(p.From.Port()), DstPort: layers.UDPPort(p.To.Port())}
		must(t, udp.SetNetworkLayerForChecksum(ip))
		l4, header = udp, header+8
	}
	buffer := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		eth, ip, l4, gopacket.Payload(make([]byte, p.Length-header))))
	return buffer.Bytes()
}
