package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
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
		{"of another size than is asked for", func(m *ebpf.MapSpec) { m.MaxEntries *= 2 }},
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
			options := h.options(t)
			options.Sizes.Services = 4096
			_, err = h.start(t, options)
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
	for _, c := range []struct {
		name, dir, want string
		code            int // what the error asks to exit with
	}{
		{"a directory on another file system", filepath.Join(t.TempDir(), "pins"), "mount -t bpf bpf", 3},
		{"a parent that is not there", filepath.Join(t.TempDir(), "no", "pins"), "no such file", 2},
		{"a name with a dot", filepath.Join(t.TempDir(), "l4.lab"), "has no dot", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := openPinDir(c.dir)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			var coded interface{ ExitCode() int }
			if asks := errors.As(err, &coded); asks != (c.code != 0) || asks && coded.ExitCode() != c.code {
				t.Errorf("%v does not ask for exit code %d", err, c.code)
			}
		})
	}
}
