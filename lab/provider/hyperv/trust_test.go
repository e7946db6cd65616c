package hyperv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/lab/capture"
	"l4lab/lab/powershell"
	"l4lab/lab/powershell/powershelltest"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

func TestANameFromTheHostLeadsNowhereOnThisMachine(t *testing.T) {
	b := newBench(t)
	b.up(t)
	kept := filepath.Join(b.lab.Dir, "..", "kept")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"../../kept", `..\..\kept`, "..", ""} {
		b.vms["evil"] = &scripts.VMFacts{Name: "evil", ID: "evil", Node: node, State: "Off"}
		if _, err := b.p.Observe(t.Context(), b.lab); !errors.Is(err, provider.ErrForeign) {
			t.Errorf("node %q: error %v, want ErrForeign", node, err)
		}
		if err := b.p.Destroy(t.Context(), b.lab); err != nil {
			t.Errorf("node %q: %v", node, err)
		}
		for _, path := range []string{kept, b.lab.Dir} {
			if _, err := os.Stat(path); err != nil {
				t.Fatalf("node %q: %v", node, err)
			}
		}
	}
}

func TestInAnothersFolderNothingIsRemoved(t *testing.T) {
	b := newBench(t)
	b.files[`C:\l4lab\demo\l4lab.mark`] = []byte("l4lab lab=demo owner=another")
	if err := b.p.Destroy(t.Context(), b.lab); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{"vm-remove", "portproxy-remove", "files-remove"} {
		if n := b.Count(script); n != 0 {
			t.Errorf("%s was run %d times in a folder that is another's", script, n)
		}
	}
}

func TestAnAddressWithAZoneKeepsErrorsWhole(t *testing.T) {
	b := newBench(t)
	b.lab.Topology.Providers.HyperV.Host.Address = "fe80::1%eth0"
	b.Meddle = func(string, []byte) error { return powershell.ErrTimeout }
	err := b.p.EnsureSwitch(t.Context(), b.lab)
	if !errors.Is(err, powershell.ErrTimeout) || !strings.Contains(err.Error(), "[fe80::1%eth0]:5986: look for") {
		t.Errorf("error %v", err)
	}
}

func TestACheckpointIsReplacedWhileNoOtherDiskIsWorkedOn(t *testing.T) {
	b := newBench(t)
	b.up(t)
	top := b.lab.Topology
	image := *top.Providers.HyperV.Images.Windows
	image.CPUs++
	block := *top.Providers.HyperV
	block.Images.Windows = &image
	top.Providers = topology.Providers{HyperV: &block}
	b.lab.Topology = top
	b.up(t)
	if b.maxDisks > 1 {
		t.Errorf("%d operations on disks or the switch at once", b.maxDisks)
	}
}

func TestAFolderThatHoldsFilesOfOthersIsNotTaken(t *testing.T) {
	b := newBench(t)
	b.files[`C:\l4lab\demo\thesis.docx`] = []byte("years of work")
	if err := b.p.EnsureSwitch(t.Context(), b.lab); !errors.Is(err, provider.ErrForeign) {
		t.Errorf("error %v, want ErrForeign", err)
	}
	if err := b.p.Destroy(t.Context(), b.lab); err != nil {
		t.Error(err)
	}
	if _, there := b.files[`C:\l4lab\demo\thesis.docx`]; !there {
		t.Error("it was removed with the lab")
	}
}

func TestTheEndOfACaptureHasALimitOfItsOwn(t *testing.T) {
	b := newBench(t)
	b.up(t)
	v := scripts.New()
	powershelltest.On(b.Machine, v.CaptureStart, func(context.Context, scripts.CaptureStartParams) (scripts.Changed, error) {
		return scripts.Changed{}, nil
	})
	var limited bool
	var ended error
	powershelltest.On(b.Machine, v.CaptureStop, func(ctx context.Context, _ scripts.CaptureStopParams) (scripts.CaptureStopResult, error) {
		_, limited = ctx.Deadline()
		ended = ctx.Err()
		return scripts.CaptureStopResult{}, powershell.ErrTimeout
	})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := b.p.Capture(ctx, b.lab, capture.Place{Machine: "be1", Port: true})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := s.Stop(); !errors.Is(err, powershell.ErrTimeout) {
		t.Errorf("error %v", err)
	}
	if !limited || ended != nil {
		t.Errorf("limited: %t, its context: %v", limited, ended)
	}
}
