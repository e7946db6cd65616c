package decap

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"l4lab/bpf"
)

const otherBalancer = "20.1.1.2"

// pinNames returns what lies in the pin directory.
func (n *node) pinNames() []string {
	n.t.Helper()
	entries, err := os.ReadDir(n.pins)
	must(n.t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// programs returns the numbers of the programs on eth0.
func (n *node) programs() (ids []uint32) {
	n.t.Helper()
	eth0, err := netlink.LinkByName("eth0")
	must(n.t, err)
	if xdp := eth0.Attrs().Xdp; xdp != nil && xdp.Attached {
		ids = append(ids, xdp.ProgId)
	}
	tcx, err := link.QueryPrograms(link.QueryOptions{Target: eth0.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	must(n.t, err)
	for _, p := range tcx.Programs {
		ids = append(ids, uint32(p.ID))
	}
	filters, err := netlink.FilterList(eth0, netlink.HANDLE_MIN_INGRESS)
	must(n.t, err)
	for _, f := range filters {
		ids = append(ids, uint32(f.(*netlink.BpfFilter).Id))
	}
	return ids
}

// occupyMark makes the last step of every Attach fail, the note of the interface's
// name: a directory with something in it has its place.
func (n *node) occupyMark() {
	n.t.Helper()
	mark := filepath.Join(n.pins, interfaceMark)
	must(n.t, os.Remove(mark))
	must(n.t, os.MkdirAll(filepath.Join(mark, "occupied"), 0o700))
}

// refused runs an Attach for another balancer that must fail with a text, and
// fails unless the machine is as it was and the old attachment works.
func (n *node) refused(o Options, want string) {
	n.t.Helper()
	hooks, programs, pins, clsact := n.hooks(), n.programs(), n.pinNames(), n.hasClsact()
	o.Tunnels = tunnels(backend, otherBalancer)
	_, err := Attach(n.t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), want) {
		n.t.Fatalf("Attach says %v, want %q", err, want)
	}
	if strings.Contains(err.Error(), "bring back") {
		n.t.Errorf("what was there was not brought back: %v", err)
	}
	if got := n.hooks(); got != hooks {
		n.t.Errorf("on the interface is %q, was %q", got, hooks)
	}
	if got := n.programs(); !slices.Equal(got, programs) {
		n.t.Errorf("on the interface are the programs %v, were %v", got, programs)
	}
	if got := n.hasClsact(); got != clsact {
		n.t.Errorf("the interface has a clsact qdisc: %v, before: %v", got, clsact)
	}
	if got := n.pinNames(); !slices.Equal(got, pins) {
		n.t.Errorf("pinned are %v, were %v", got, pins)
	}
	s, err := Status(n.t.Context(), n.pins)
	must(n.t, err)
	if !reflect.DeepEqual(s.Tunnels, tunnels(backend, balancer)) {
		n.t.Errorf("status is %+v, want %s from %s", s, backend, balancer)
	}
	n.sendEncapsulated(otherBalancer, backend, "from the other balancer")
	n.sendEncapsulated(balancer, backend, "still here")
	n.expect("still here")
}

func TestAnInterfaceThatRefusesLeavesTheAttachmentWhereItIs(t *testing.T) {
	eachVariant(t, func(t *testing.T, n *node, variant string) {
		n.attach(variants(n)[variant], "attached")
		o := n.options(XDP)
		o.Interface = "lo"
		n.refused(o, "--generic takes the slow mode")
		n.attach(variants(n)[variant], variant)
		n.expectStatus("true eth0 " + string(variants(n)[variant].Hook) + " what 20.1.1.1 sends to 20.1.1.10 decapsulated 1/38 malformed 0")
	})
}

func TestAModeThatTheDriverRefusesLeavesTheOther(t *testing.T) {
	n := newNode(t)
	n.attach(variants(n)["generic XDP"], "attached")
	must(t, netlink.LinkSetMTU(n.wire, 9000))
	must(t, netlink.LinkSetMTU(n.eth0, 9000))
	n.refused(n.options(XDP), "the MTU of 9000 may be too large")
	must(t, netlink.LinkSetMTU(n.wire, 1500))
	must(t, netlink.LinkSetMTU(n.eth0, 1500))
	n.attach(n.options(XDP), "native XDP, attached anew")
	if got := n.hooks(); got != "native XDP" {
		t.Errorf("on the interface is %q", got)
	}
}

func TestAForeignXDPProgramLeavesTheAttachmentAtTC(t *testing.T) {
	for _, variant := range []string{"TCX", "clsact filter"} {
		t.Run(variant, func(t *testing.T) {
			n := newNode(t)
			n.attach(variants(n)[variant], "attached")
			foreign, err := ebpf.NewProgram(bpf.PassProgram())
			must(t, err)
			defer foreign.Close()
			l, err := link.AttachXDP(link.XDPOptions{Program: foreign, Interface: n.eth0.Attrs().Index, Flags: link.XDPDriverMode})
			must(t, err)
			defer l.Close()
			n.refused(n.options(XDP), "another XDP program")
		})
	}
}

func TestAFailureAfterTheAttachmentIsTakenBack(t *testing.T) {
	eachVariant(t, func(t *testing.T, n *node, variant string) {
		n.attach(variants(n)[variant], "attached")
		n.occupyMark()
		for wanted, o := range variants(n) {
			t.Log("wanted:", wanted)
			n.refused(o, "remove the pin")
		}
	})
}

func TestAFailedUpdateLeavesTheProgramThatRan(t *testing.T) {
	eachVariant(t, func(t *testing.T, n *node, variant string) {
		n.attach(variants(n)[variant], "attached")
		// Another version's map: the program has to be replaced, and the map with it.
		stats := filepath.Join(n.pins, statsMap)
		must(t, os.Remove(stats))
		old, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 32, MaxEntries: 2})
		must(t, err)
		defer old.Close()
		must(t, old.Pin(stats))
		mark := filepath.Join(n.pins, interfaceMark)
		n.occupyMark()
		n.refused(variants(n)[variant], "remove the pin")
		pinned, err := ebpf.LoadPinnedMap(stats, nil)
		must(t, err)
		defer pinned.Close()
		if pinned.MaxEntries() != 2 {
			t.Error("the old map's pin was replaced")
		}
		must(t, errors.Join(os.Remove(filepath.Join(mark, "occupied")), os.Remove(mark)))
		n.attach(variants(n)[variant], "updated")
		n.sendEncapsulated(balancer, backend, "x")
		n.expect("x")
		n.expectStatus("true eth0 " + string(variants(n)[variant].Hook) + " what 20.1.1.1 sends to 20.1.1.10 decapsulated 1/29 malformed 0")
	})
}

func TestAFailedFilterIsRemovedFromAForeignClsact(t *testing.T) {
	n := newNode(t)
	must(t, netlink.QdiscAdd(clsactOf(n.eth0)))
	n.attach(n.options(TC), "attached")
	n.occupyMark()
	n.refused(variants(n)["clsact filter"], "remove the pin")
}

func TestAnotherInterfaceTakesTheAttachment(t *testing.T) {
	eachVariant(t, func(t *testing.T, n *node, variant string) {
		for to, o := range variants(n) {
			n.attach(variants(n)[variant], variant+", attached")
			o.Interface = "wire"
			n.attach(o, to+", attached")
			if hooks := n.hooks(); hooks != "" || n.hasClsact() {
				t.Errorf("after %s moved to %s elsewhere, eth0 has %q, clsact %v", variant, to, hooks, n.hasClsact())
			}
			n.expectStatus("true wire " + string(o.Hook) + " what 20.1.1.1 sends to 20.1.1.10 decapsulated 0/0 malformed 0")
			must(t, Detach(t.Context(), n.pins))
			if left := n.pinned(); len(left) > 0 {
				t.Errorf("left in the bpffs: %v", left)
			}
		}
	})
}

// TestWhatAKilledAttachLeftIsRemoved puts a link beside the pinned one, as it is
// between its attachment and the renaming.
func TestWhatAKilledAttachLeftIsRemoved(t *testing.T) {
	n := newNode(t)
	n.attach(n.options(TC), "attached")
	p, err := load(TC, &pinDir{path: n.pins})
	must(t, err)
	l, err := link.AttachTCX(link.TCXOptions{Program: p.Program, Interface: n.wire.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	must(t, err)
	must(t, errors.Join(l.Pin(filepath.Join(n.pins, tcLinkPin+besideSuffix)), l.Close(), p.close()))
	n.attach(n.options(TC), "kept")
	left, err := link.QueryPrograms(link.QueryOptions{Target: n.wire.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	must(t, err)
	if len(left.Programs) > 0 || slices.Contains(n.pinNames(), tcLinkPin+besideSuffix) {
		t.Errorf("left on the wire: %v; pinned: %v", left.Programs, n.pinNames())
	}
}

func TestAChangeIsTakenBackLastStepFirst(t *testing.T) {
	var steps []string
	step := func(name string) func() error {
		return func() error { steps = append(steps, name); return nil }
	}
	begin := func() *change {
		steps = nil
		c := &change{}
		c.onFailure(step("undo 1"))
		c.onSuccess(step("finish 1"))
		c.onFailure(step("undo 2"))
		c.onSuccess(step("finish 2"))
		return c
	}
	for name, c := range map[string]struct {
		run  func(*change) error
		want []string
	}{
		"a failure takes back":      {(*change).revert, []string{"undo 2", "undo 1"}},
		"a success removes the old": {(*change).finish, []string{"finish 1", "finish 2"}},
		"after a success nothing is undone": {func(c *change) error { return errors.Join(c.finish(), c.revert()) },
			[]string{"finish 1", "finish 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, c.run(begin()))
			if !slices.Equal(steps, c.want) {
				t.Errorf("ran %v, want %v", steps, c.want)
			}
		})
	}
}
