package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l4lab/agent/testnet"
	"l4lab/bpf"
)

// host is a namespace with an interface, a pin directory, and what the steps said.
type host struct {
	testnet.Namespace
	pins  string
	steps []string
}

func newHost(t *testing.T) *host {
	t.Helper()
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	return &host{Namespace: pair.Balancer, pins: filepath.Join(testnet.BPFFS(t), "lbagent")}
}

func (h *host) options(t *testing.T) Options {
	return Options{
		Interface: "eth0",
		Index:     h.Link(t).Attrs().Index,
		PinDir:    h.pins,
		Step:      func(s string) { h.steps = append(h.steps, s) },
	}
}

// start loads and attaches in the namespace.
func (h *host) start(t *testing.T, options Options) (d Datapath, err error) {
	t.Helper()
	h.Do(t, func() {
		if d, err = Load(options); err != nil {
			return
		}
		if err = d.Attach(); err != nil {
			err = errors.Join(err, d.Close())
		}
	})
	return d, err
}

func (h *host) mustStart(t *testing.T) Datapath {
	t.Helper()
	d, err := h.start(t, h.options(t))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (h *host) attachment(t *testing.T, d Datapath) Attachment {
	t.Helper()
	var a Attachment
	h.Do(t, func() {
		var err error
		if a, err = d.Attachment(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestStoppedAgentLeavesTheProgramAndTheNextTakesItOver(t *testing.T) {
	h := newHost(t)
	first := h.mustStart(t)
	before := h.attachment(t, first)
	if first.TookOver() || before.ProgramID == 0 || before.Mode != "native" {
		t.Errorf("first start: took over %t, attached %+v", first.TookOver(), before)
	}
	key := ServiceKey{Frontend: addrPort("40.1.1.1:80"), Protocol: TCP}
	service := Service{ID: 7, Slot: 3, TableSize: 251, Mode: SNAT}
	if err := first.Maps().PutService(key, service); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if xdp := h.Link(t).Attrs().Xdp; xdp == nil || xdp.ProgId != before.ProgramID {
		t.Fatalf("after the agent ended the interface has %+v, want program %d", xdp, before.ProgramID)
	}

	second := h.mustStart(t)
	after := h.attachment(t, second)
	if !second.TookOver() || after.ProgramID == before.ProgramID || after.ProgramID == 0 {
		t.Errorf("second start: took over %t, attached %+v, before %+v", second.TookOver(), after, before)
	}
	services, err := second.Maps().Services()
	if err != nil || !reflect.DeepEqual(services, map[ServiceKey]Service{key: service}) {
		t.Errorf("services after the takeover: %v, %v", services, err)
	}
	if err := second.Unload(); err != nil {
		t.Fatal(err)
	}
	h.wantNothing(t)
}

// wantNothing checks that neither program nor pins are left.
func (h *host) wantNothing(t *testing.T) {
	t.Helper()
	if xdp := h.Link(t).Attrs().Xdp; xdp != nil && xdp.Attached {
		t.Errorf("the interface still has program %d", xdp.ProgId)
	}
	if _, err := os.Stat(h.pins); !errors.Is(err, os.ErrNotExist) {
		left, _ := os.ReadDir(h.pins)
		t.Errorf("pins are left: %v (%v)", left, err)
	}
}

func TestUnloadWorksWithoutAnAgent(t *testing.T) {
	h := newHost(t)
	if err := h.mustStart(t).Close(); err != nil {
		t.Fatal(err)
	}
	if err := Unload(h.pins); err != nil {
		t.Fatal(err)
	}
	h.wantNothing(t)
	if err := Unload(h.pins); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestUnloadWorksAfterTheInterfaceHasGone(t *testing.T) {
	h := newHost(t)
	if err := h.mustStart(t).Close(); err != nil {
		t.Fatal(err)
	}
	h.deleteLink(t)
	if err := Unload(h.pins); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
}

func TestUnloadLeavesWhatIsNotOurs(t *testing.T) {
	h := newHost(t)
	d := h.mustStart(t)
	other, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Pin(filepath.Join(h.pins, "somebody_elses")); err != nil {
		t.Fatal(err)
	}
	if err := d.Unload(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(h.pins)
	if err != nil || len(left) != 1 || left[0].Name() != "somebody_elses" {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestAttachRefusesToReplaceSomebodyElsesProgram(t *testing.T) {
	h := newHost(t)
	program, err := ebpf.NewProgram(bpf.PassProgram())
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	var theirs link.Link
	h.Do(t, func() { theirs, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: h.options(t).Index}) })
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	id, _ := programID(program)
	_, err = h.start(t, h.options(t))
	if !errors.Is(err, ErrForeignProgram) || !strings.Contains(err.Error(), fmt.Sprintf("id %d", id)) {
		t.Errorf("got %v, want ErrForeignProgram with id %d", err, id)
	}
	if xdp := h.Link(t).Attrs().Xdp; xdp == nil || xdp.ProgId != uint32(id) {
		t.Errorf("their program has gone: %+v", xdp)
	}
}

func TestTwoAgentsCannotShareThePins(t *testing.T) {
	h := newHost(t)
	d := h.mustStart(t)
	defer d.Close()
	if _, err := h.start(t, h.options(t)); !errors.Is(err, ErrInUse) {
		t.Errorf("a second agent: got %v, want ErrInUse", err)
	}
	if err := Unload(h.pins); !errors.Is(err, ErrInUse) {
		t.Errorf("unload beside an agent: got %v, want ErrInUse", err)
	}
}

func TestTakeoverRefusesMapsOfAnotherLayout(t *testing.T) {
	for _, c := range []struct {
		name  string
		other func(*ebpf.MapSpec)
	}{
		{"of another size", func(m *ebpf.MapSpec) { m.MaxEntries *= 2 }},
		{"with another value", func(m *ebpf.MapSpec) { m.ValueSize += 8; m.Value, m.Key = nil, nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			if err := os.Mkdir(h.pins, 0o700); err != nil {
				t.Fatal(err)
			}
			spec, err := bpf.LoadLB()
			if err != nil {
				t.Fatal(err)
			}
			other := spec.Maps[bpf.LBMapServices]
			c.other(other)
			m, err := ebpf.NewMap(other)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if err := m.Pin(filepath.Join(h.pins, bpf.LBMapServices)); err != nil {
				t.Fatal(err)
			}
			_, err = h.start(t, h.options(t))
			if !errors.Is(err, ErrOtherLayout) || !strings.Contains(err.Error(), "lbagent unload") {
				t.Errorf("got %v, want ErrOtherLayout and what to do", err)
			}
			left, err := os.ReadDir(h.pins)
			if err != nil || len(left) != 1 {
				t.Errorf("beside the old map there is now: %v, %v", left, err)
			}
		})
	}
}

func TestMembersThatChangedPlacesAreAnotherLayout(t *testing.T) {
	testnet.NeedRoot(t)
	spec, err := bpf.LoadLB()
	if err != nil {
		t.Fatal(err)
	}
	services := spec.Maps[bpf.LBMapServices]
	m, err := ebpf.NewMap(services)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := sameLayout(m, services); err != nil {
		t.Fatalf("its own layout: %v", err)
	}
	changed, err := bpf.LoadLB()
	if err != nil {
		t.Fatal(err)
	}
	value := changed.Maps[bpf.LBMapServices]
	swapMembers(t, value, "id", "slot")
	if err := sameLayout(m, value); err == nil || !strings.Contains(err.Error(), "slot") {
		t.Errorf("got %v, want the member's name", err)
	}
}

func TestPinsOfAnotherInterfaceAreNotTakenOver(t *testing.T) {
	h := newHost(t)
	if err := h.mustStart(t).Close(); err != nil {
		t.Fatal(err)
	}
	other := newHost(t)
	other.pins = h.pins
	_, err := other.start(t, other.options(t))
	if err == nil || !strings.Contains(err.Error(), "lbagent unload") {
		t.Errorf("got %v, want what to do", err)
	}
	if xdp := h.Link(t).Attrs().Xdp; xdp == nil || !xdp.Attached {
		t.Error("the first interface lost its program")
	}
}

func TestAttachStartsAnewAfterTheInterfaceWasReplaced(t *testing.T) {
	h := newHost(t)
	if err := h.mustStart(t).Close(); err != nil {
		t.Fatal(err)
	}
	h.deleteLink(t)
	replaced := newHost(t)
	replaced.pins = h.pins
	d := replaced.mustStart(t)
	defer d.Close()
	if a := replaced.attachment(t, d); a.ProgramID == 0 || !d.TookOver() {
		t.Errorf("attached %+v, maps taken over %t", a, d.TookOver())
	}
}

func TestGenericModeOnRequest(t *testing.T) {
	h := newHost(t)
	options := h.options(t)
	options.Generic = true
	d, err := h.start(t, options)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if a := h.attachment(t, d); a.Mode != "generic" {
		t.Errorf("attached %+v", a)
	}
}

func TestInterfaceWithoutNativeXDPIsExplained(t *testing.T) {
	h := newHost(t)
	var index int
	h.Do(t, func() { index = addBridge(t) })
	options := h.options(t)
	options.Interface, options.Index = "br0", index
	_, err := h.start(t, options)
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "--generic") {
		t.Errorf("got %v, want ErrUnsupported and the way out", err)
	}
}

func TestKernelThatLacksSomethingIsSaidBeforeAnythingIsMade(t *testing.T) {
	h := newHost(t)
	options := h.options(t)
	options.Requirements = []Requirement{
		{"XDP programs", "Linux 4.8", func() error { return ebpf.ErrNotSupported }},
		{"maps", "Linux 3.18", func() error { return nil }},
		{"links", "Linux 5.7", func() error { return errors.New("invalid argument") }},
	}
	_, err := h.start(t, options)
	if !errors.Is(err, ErrUnsupported) {
		t.Fatalf("got %v, want ErrUnsupported", err)
	}
	for _, want := range []string{"XDP programs (Linux 4.8)", "links (Linux 5.7)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	options.Requirements = []Requirement{{"XDP programs", "Linux 4.8", func() error { return os.ErrPermission }}}
	if _, err := h.start(t, options); !errors.Is(err, ErrPermission) || errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v, want ErrPermission alone", err)
	}
	h.wantNothing(t)
}

func TestThisKernelMeetsTheRequirements(t *testing.T) {
	testnet.NeedRoot(t)
	if err := checkRequirements(Requirements()); err != nil {
		t.Error(err)
	}
}

func TestPinDirectoryMustBeOnABPFFS(t *testing.T) {
	for _, c := range []struct{ name, dir, want string }{
		{"a directory on another file system", filepath.Join(t.TempDir(), "pins"), "mount -t bpf bpf"},
		{"a parent that is not there", filepath.Join(t.TempDir(), "no", "pins"), "no such file"},
		{"a name with a dot", filepath.Join(t.TempDir(), "l4.lab"), "has no dot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := openPinDir(c.dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestMapsGiveBackWhatWasPut(t *testing.T) {
	h := newHost(t)
	d := h.mustStart(t)
	defer d.Close()
	m := d.Maps()
	if c, err := m.Config(); err != nil || c.Address.String() != "0.0.0.0" {
		t.Errorf("config before it was put: %+v, %v", c, err)
	}
	config := DefaultConfig()
	config.Address, config.MTU, config.MAC = addr("20.1.1.1"), 1500, MAC{2, 0, 0, 0, 0, 1}
	check(t, m.PutConfig(config))
	if got, err := m.Config(); err != nil || got != config {
		t.Errorf("config: got %+v, %v, want %+v", got, err, config)
	}
	backend := Backend{Address: addrPort("20.1.1.10:80"), Protocol: UDP}
	check(t, m.PutBackend(5, backend))
	if got, err := m.Backends(); err != nil || !reflect.DeepEqual(got, map[uint32]Backend{5: backend}) {
		t.Errorf("backends: got %v, %v", got, err)
	}
	check(t, m.DeleteBackend(5))
	if got, err := m.Backends(); err != nil || len(got) != 0 {
		t.Errorf("backends after the delete: got %v, %v", got, err)
	}
	mac := MAC{2, 0, 0, 0, 0, 9}
	check(t, m.PutNeighbour(addr("20.1.1.10"), mac))
	if got, err := m.Neighbours(); err != nil || got[addr("20.1.1.10")] != mac || len(got) != 1 {
		t.Errorf("neighbours: got %v, %v", got, err)
	}
	check(t, m.DeleteNeighbour(addr("20.1.1.10")))
	check(t, m.DeleteNeighbour(addr("20.1.1.10"))) // nothing there: fine
	if drops, err := m.Drops(); err != nil || len(drops) != int(bpf.LBDropReasonDROP_REASON_MAX)-1 || drops["no_backend"] != 0 {
		t.Errorf("drops: got %v, %v", drops, err)
	}
}

func TestTablesOfEverySizeGiveBackWhatWasPut(t *testing.T) {
	h := newHost(t)
	d := h.mustStart(t)
	defer d.Close()
	m := d.Maps()
	if table, err := m.Table(1); err != nil || table != nil {
		t.Errorf("a slot without a table: got %v, %v", table, err)
	}
	for _, size := range []int{251, 16381, 131071} {
		table := make([]uint32, size)
		for i := range table {
			table[i] = uint32(i*7 + 1)
		}
		check(t, m.PutTable(1, table))
		if got, err := m.Table(1); err != nil || !slices.Equal(got, table) {
			t.Errorf("table of %d: got %d slots, %v", size, len(got), err)
		}
	}
	check(t, m.PutTable(9, make([]uint32, 251)))
	slots, err := m.Slots()
	slices.Sort(slots)
	if err != nil || !slices.Equal(slots, []uint32{1, 9}) {
		t.Errorf("slots: got %v, %v", slots, err)
	}
	check(t, m.DeleteTable(1))
	check(t, m.DeleteTable(1))
}

func TestFlowsGiveBackWhatWasPut(t *testing.T) {
	h := newHost(t)
	d := h.mustStart(t)
	defer d.Close()
	m := d.Maps()
	const n = 3000 // several batches
	for i := range n {
		flow := Flow{Source: addrPort("20.1.1.100:40000"), Dest: addrPort("40.1.1.1:80"), Protocol: TCP}
		flow.Dest = withPort(flow.Dest, uint16(i+1))
		check(t, m.PutConn(flow, Conn{RxBytes: uint64(i), Backend: addrPort("20.1.1.10:80"), NATPort: 40001, Mode: SNAT, Flags: SeenNonSYN | Reset}))
		check(t, m.PutNAT(flow, NAT{Client: addrPort("20.1.1.100:40000"), VIP: addrPort("40.1.1.1:80"), BackendID: 3}))
	}
	seen := make(map[Flow]Conn)
	for f, err := range m.Conns() {
		check(t, err)
		seen[f.Flow] = f.Conn
	}
	nats := 0
	for f, err := range m.NATs() {
		check(t, err)
		nats++
		if f.NAT.Client != addrPort("20.1.1.100:40000") || f.NAT.VIP != addrPort("40.1.1.1:80") || f.NAT.BackendID != 3 {
			t.Fatalf("way back: %+v", f)
		}
	}
	if len(seen) != n || nats != n {
		t.Errorf("saw %d flows and %d ways back, want %d of each", len(seen), nats, n)
	}
	flow := Flow{Source: addrPort("20.1.1.100:40000"), Dest: addrPort("40.1.1.1:17"), Protocol: TCP}
	want := Conn{RxBytes: 16, Backend: addrPort("20.1.1.10:80"), NATPort: 40001, Mode: SNAT, Flags: SeenNonSYN | Reset}
	if seen[flow] != want {
		t.Errorf("flow %v: got %+v, want %+v", flow, seen[flow], want)
	}
	check(t, m.DeleteConn(flow))
	if _, ok, err := m.Conn(flow); ok || err != nil {
		t.Errorf("after the delete: %t, %v", ok, err)
	}
}
