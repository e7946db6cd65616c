package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Verdicts as the kernel returns them (enum xdp_action).
const (
	xdpDrop = 1
	xdpTX   = 3
)

// Maps of the real sizes cost each test tens of megabytes; load_linux_test.go
// loads them once.
const (
	testFlows    = 4096
	testBackends = 512
	testServices = 64
)

// Lifetimes of the tests, far enough apart to tell one from another and
// shorter than any machine has been up when tests run.
const (
	lifeClosing     = 2 * time.Second
	lifeSYN         = 4 * time.Second
	lifeOther       = 6 * time.Second
	lifeEstablished = 8 * time.Second
	lifeFragment    = 3 * time.Second
)

var (
	lbMAC     = mac("02:00:00:00:00:01")
	routerMAC = mac("02:00:00:00:00:64")
	otherMAC  = mac("02:00:00:00:00:65")
	lbAddress = netip.MustParseAddr("20.1.1.1")
	vip       = netip.MustParseAddr("40.1.1.1")
	client    = netip.MustParseAddr("20.1.1.100")

	lbAddress6 = netip.MustParseAddr("fd20::1")
	vip6       = netip.MustParseAddr("fd40::1")
	client6    = netip.MustParseAddr("fd20::100")
)

const (
	natMin = 32768
	natMax = 65535
)

// balancer is the lb program in the kernel with maps of its own. Its send
// checks after every frame that counters say what happened, and nothing more.
type balancer struct {
	t       testing.TB
	objects *LBObjects
	reasons []string
	config  LBLbConfig
}

func newBalancer(t testing.TB) *balancer {
	t.Helper()
	requireRoot(t)
	return begin(t, takeLB(t))
}

// dropReasons reads the names out of the object once.
var dropReasons = sync.OnceValue(func() []string {
	names, err := DropReasons()
	if err != nil {
		panic(err)
	}
	return names
})

// newBalancerOf loads a balancer of its own, for tests that want other maps.
func newBalancerOf(t testing.TB, change func(maps map[string]*ebpf.MapSpec)) *balancer {
	t.Helper()
	requireRoot(t)
	objects := loadLB(t, change)
	t.Cleanup(func() { _ = objects.Close() })
	return begin(t, objects)
}

// begin configures a balancer whose maps are empty.
func begin(t testing.TB, objects *LBObjects) *balancer {
	t.Helper()
	b := &balancer{t: t, objects: objects, reasons: dropReasons()}
	b.config = LBLbConfig{
		Layout: 2, Mtu: 1500, Mac: [6]uint8(lbMAC), NatMin: natMin, NatMax: natMax,
		Address4: wire(lbAddress).Word[0], Address6: wire(lbAddress6),
		TcpEstablishedNs: uint64(lifeEstablished), TcpSynNs: uint64(lifeSYN),
		TcpClosingNs: uint64(lifeClosing), NonTcpNs: uint64(lifeOther), FragmentNs: uint64(lifeFragment),
	}
	b.configure(func(*LBLbConfig) {})
	b.admit(lbAddress)
	b.admit(lbAddress6)
	return b
}

// wire is an address as the maps hold it: its bytes as they lie in the packet.
func wire(a netip.Addr) (w LBAddress) {
	if a.Is4() {
		four := a.As4()
		w.Word[0] = binary.NativeEndian.Uint32(four[:])
		return w
	}
	sixteen := a.As16()
	for i := range w.Word {
		w.Word[i] = binary.NativeEndian.Uint32(sixteen[4*i:])
	}
	return w
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return 4
	}
	return 6
}

// addressBit is the bit of vip_filter that an address has (address_bit of lib/family.h).
func addressBit(a netip.Addr) uint32 {
	w := wire(a).Word
	word := w[0]
	if a.Is6() {
		word ^= w[1]*3 ^ w[2]*5 ^ w[3]*7
	}
	return word * 0x9e3779b1 >> 16
}

// admit sets an address's bit in vip_filter.
func (b *balancer) admit(a netip.Addr) {
	b.t.Helper()
	bit := addressBit(a)
	var word uint64
	must(b.t, b.objects.VipFilter.Lookup(bit/64, &word))
	must(b.t, b.objects.VipFilter.Put(bit/64, word|1<<(bit%64)))
}

// port is a port as the maps hold it; its own inverse.
func port(p uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p))
}

func (b *balancer) configure(change func(*LBLbConfig)) {
	b.t.Helper()
	change(&b.config)
	must(b.t, b.objects.Config.Put(uint32(0), b.config))
}

func backendAddress(id uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{20, 1, byte(2 + id>>8), byte(id)})
}

func backendAddress6(id uint32) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x20, 13: 2, 14: byte(id >> 8), 15: byte(id)})
}

func backendMAC(id uint32) [6]uint8 { return [6]uint8{2, 0xbe, 0, 0, byte(id >> 8), byte(id)} }

func backendPort(id uint32) netip.AddrPort { return netip.AddrPortFrom(backendAddress(id), 8080) }

// backend is an entry as the agent would write it, of a service whose id is its slot.
func backend(id, service uint32, six bool) LBBackend {
	e := LBBackend{
		Address: wire(backendAddress(id)), Outer: wire(lbAddress), Port: port(8080),
		State: LBBackendStateBACKEND_ACTIVE, ServiceId: service, ServiceSlot: service,
	}
	if six {
		e.Address, e.Outer = wire(backendAddress6(id)), wire(lbAddress6)
	}
	e.Mac[0] = backendMAC(id)
	return e
}

// changeBackend rewrites a backend's entry.
func (b *balancer) changeBackend(id uint32, change func(*LBBackend)) {
	b.t.Helper()
	var e LBBackend
	must(b.t, b.objects.Backends.Lookup(id, &e))
	change(&e)
	must(b.t, b.objects.Backends.Put(id, e))
}

// serve makes the VIP's port a service whose Maglev slots hold the backends in
// turn, and makes those backends and their next hops known.
func (b *balancer) serve(id uint32, frontend netip.AddrPort, proto uint8, mode LBLbMode, size uint32, backends ...uint32) {
	b.t.Helper()
	table, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: max(size+1, 2) / 2, Flags: unix.BPF_F_INNER_MAP | unix.BPF_F_MMAPABLE,
	})
	must(b.t, err)
	defer table.Close()
	for slot := uint32(0); slot < size && len(backends) > 0; slot += 2 {
		pair := uint64(backends[int(slot)%len(backends)])
		if slot+1 < size {
			pair |= uint64(backends[int(slot+1)%len(backends)]) << 32
		}
		must(b.t, table.Put(slot/2, pair))
	}
	for _, n := range backends {
		must(b.t, b.objects.Backends.Put(n, backend(n, id, frontend.Addr().Is6())))
	}
	must(b.t, b.objects.Maglev.Put(id, table))
	must(b.t, b.objects.Services.Put(serviceKey(frontend, proto), LBService{
		Id: id, Slot: id, TableSize: size, Mode: mode,
	}))
	b.admit(frontend.Addr())
	icmp := uint8(1)
	if frontend.Addr().Is6() {
		icmp = 58
	}
	must(b.t, b.objects.Services.Put(serviceKey(netip.AddrPortFrom(frontend.Addr(), 0), icmp), LBService{}))
}

// serveBoth makes the VIP's TCP port 80 service 1 with a backend, and its UDP
// port 53 service 2 with the same host. An entry is of one service, so the second
// one has another number.
func (b *balancer) serveBoth(mode LBLbMode, id uint32) {
	b.t.Helper()
	b.serve(1, web, uint8(tcp), mode, 251, id)
	b.serve(2, dns, uint8(udp), mode, 251, udpBackend(id))
	b.changeBackend(udpBackend(id), func(e *LBBackend) { e.Address, e.Mac[0] = wire(backendAddress(id)), backendMAC(id) })
}

// udpBackend is the number that a host has as a backend of UDP port 53.
func udpBackend(id uint32) uint32 { return id + 10 }

// changeService rewrites a service's entry.
func (b *balancer) changeService(frontend netip.AddrPort, proto uint8, change func(*LBService)) {
	b.t.Helper()
	var s LBService
	must(b.t, b.objects.Services.Lookup(serviceKey(frontend, proto), &s))
	change(&s)
	must(b.t, b.objects.Services.Put(serviceKey(frontend, proto), s))
}

// innerTable opens the Maglev table of a service's slot.
func (b *balancer) innerTable(slot uint32) (*ebpf.Map, error) {
	var inner *ebpf.Map
	if err := b.objects.Maglev.Lookup(slot, &inner); err != nil {
		return nil, fmt.Errorf("table of slot %d: %w", slot, err)
	}
	return inner, nil
}

func serviceKey(frontend netip.AddrPort, proto uint8) LBServiceKey {
	return LBServiceKey{Vip: wire(frontend.Addr()), Port: port(frontend.Port()), Proto: proto, Family: family(frontend.Addr())}
}

// request is a client's packet to the VIP's TCP port 80.
func request(sourcePort uint16, flags string) packet {
	return packet{
		sourceMAC: routerMAC, destMAC: lbMAC, proto: tcp, flags: flags, ttl: 64, id: 0x1234,
		from: netip.AddrPortFrom(client, sourcePort), to: netip.AddrPortFrom(vip, 80),
	}
}

// datagram is a client's packet to the VIP's UDP port 53.
func datagram(sourcePort uint16, payload string) packet {
	p := request(sourcePort, "")
	p.proto, p.to, p.payload = udp, netip.AddrPortFrom(vip, 53), []byte(payload)
	return p
}

// translated is what SNAT makes of a client's packet.
func translated(p packet, natPort uint16, backend uint32) packet {
	m := backendMAC(backend)
	p.sourceMAC, p.destMAC = lbMAC, m[:]
	p.from, p.to = netip.AddrPortFrom(lbAddress, natPort), backendPort(backend)
	p.ttl--
	return p
}

// answer is a backend's packet to the balancer.
func answer(backend uint32, natPort uint16, proto uint8, flags string) packet {
	m := backendMAC(backend)
	p := request(0, flags)
	p.sourceMAC, p.destMAC = m[:], lbMAC
	if proto == uint8(udp) {
		p.proto = udp
	}
	p.from, p.to = backendPort(backend), netip.AddrPortFrom(lbAddress, natPort)
	return p
}

// translatedBack is what SNAT makes of a backend's packet.
func translatedBack(p packet, from, to netip.AddrPort) packet {
	p.sourceMAC, p.destMAC = lbMAC, routerMAC
	p.from, p.to = from, to
	p.ttl--
	return p
}

// sourcePort reads the transport's source port out of a frame.
func sourcePort(frame []byte) uint16 { return binary.BigEndian.Uint16(frame[l4Offset(frame):]) }
