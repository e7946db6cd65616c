package hvsim

import (
	"os"
	"slices"
	"testing"
	"time"

	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

func TestAMachineIsMadeOffAndOnce(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	vm := b.machine("lb", linuxImage)
	if vm.State != "Off" || vm.Node != "lb" || vm.Heartbeat != "" || vm.MAC != "00155D010101" || !vm.Spoofing || vm.SecureBoot || vm.Switch != lan || vm.ID == "" {
		t.Errorf("got %+v", vm)
	}
	again := must(b, b.v.VMEnsure, describe("lb"))
	if again.Changed.Changed || again.Machine.ID != vm.ID {
		t.Errorf("the second time: %+v", again)
	}
}

func TestAMachineNeedsItsDiskItsSeedAndItsSwitch(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	refuse(b, b.v.VMEnsure, describe("lb"), "notFound", "lb.vhdx")
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("lb"), Parent: linuxImage, Folder: folder})
	p := describe("lb")
	p.DVD = folder + `\seeds\lb.iso`
	refuse(b, b.v.VMEnsure, p, "notFound", "lb.iso")
	p = describe("lb")
	p.Switch = "other"
	refuse(b, b.v.VMEnsure, p, "notFound", "other")
	if got := b.observe(); len(got.Machines) != 0 {
		t.Errorf("a refusal left %+v", got.Machines)
	}
}

func TestMachinesThatCannotBeAreRefused(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("lb"), Parent: linuxImage, Folder: folder})
	for name, change := range map[string]func(*scripts.VMEnsureParams){
		"generation 3":                func(p *scripts.VMEnsureParams) { p.Generation = 3 },
		"16 MB of memory":             func(p *scripts.VMEnsureParams) { p.MemoryMB = 16 },
		"an odd number of MB":         func(p *scripts.VMEnsureParams) { p.MemoryMB = 2047 },
		"no processor":                func(p *scripts.VMEnsureParams) { p.Processors = 0 },
		"a MAC address of five bytes": func(p *scripts.VMEnsureParams) { p.MAC = "00155D0101" },
		"an unknown template":         func(p *scripts.VMEnsureParams) { p.SecureBoot = "On" },
		"a VHD in generation 2":       func(p *scripts.VMEnsureParams) { p.Disk = folder + `\disks\lb.vhd` },
	} {
		t.Run(name, func(t *testing.T) {
			p := describe("lb")
			change(&p)
			refuse(b, b.v.VMEnsure, p, "InvalidParameter")
		})
	}
}

func TestWhatHyperVChangesOnlyInAMachineThatIsOffIsRefusedWhileItIsOn(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	vm := b.machine("lb", linuxImage)
	b.start(vm.ID)
	for name, change := range map[string]func(*scripts.VMEnsureParams){
		"memory":      func(p *scripts.VMEnsureParams) { p.MemoryMB = 4096 },
		"processors":  func(p *scripts.VMEnsureParams) { p.Processors = 2 },
		"mac":         func(p *scripts.VMEnsureParams) { p.MAC = "00155D010102" },
		"secure boot": func(p *scripts.VMEnsureParams) { p.SecureBoot = "MicrosoftWindows" },
	} {
		t.Run(name, func(t *testing.T) {
			p := describe("lb")
			change(&p)
			refuse(b, b.v.VMEnsure, p, "InvalidState", "current state")
			must(b, b.v.VMStop, scripts.VMStopParams{ID: vm.ID, Mark: mark, Seconds: 0})
			if r := must(b, b.v.VMEnsure, p); !r.Changed.Changed || len(r.What) != 1 {
				t.Errorf("while off: %+v", r)
			}
			must(b, b.v.VMEnsure, describe("lb"))
			b.start(vm.ID)
		})
	}
	p := describe("lb")
	p.Spoofing = false
	if r := must(b, b.v.VMEnsure, p); !slices.Equal(r.What, []string{"spoofing"}) || r.Machine.Spoofing {
		t.Errorf("spoofing can be changed while it is on: %+v", r)
	}
	// What the script does not compare, it does not change.
	p.Generation = 1
	if r := must(b, b.v.VMEnsure, p); r.Changed.Changed || r.Machine.Generation != 2 {
		t.Errorf("another generation: %+v", r)
	}
}

func TestMachinesOfOthersAreLeftAlone(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	foreign, err := b.h.PlaceMachine("Demo-LB", others+" node=lb")
	if err != nil {
		t.Fatal(err)
	}
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("lb"), Parent: linuxImage, Folder: folder})
	own := scripts.VMParams{ID: foreign.ID, Mark: mark}
	checkpoint := scripts.CheckpointParams{ID: foreign.ID, Mark: mark, Name: "setup"}
	refuse(b, b.v.VMEnsure, describe("lb"), "foreign")
	refuse(b, b.v.VMRemove, scripts.VMRemoveParams{Name: "demo-lb", Node: "lb", Mark: mark, Folder: folder}, "foreign")
	refuse(b, b.v.VMStart, own, "foreign")
	refuse(b, b.v.VMStop, scripts.VMStopParams{ID: foreign.ID, Mark: mark}, "foreign")
	refuse(b, b.v.VMState, own, "foreign")
	refuse(b, b.v.SeedEject, own, "foreign")
	refuse(b, b.v.CheckpointCreate, checkpoint, "foreign")
	refuse(b, b.v.CheckpointRestore, checkpoint, "foreign")
	refuse(b, b.v.CheckpointRemove, checkpoint, "foreign")
	if got := b.observe(); !slices.Equal(got.Foreign, []string{"machine Demo-LB"}) || len(got.Machines) != 0 {
		t.Errorf("observed %+v", got)
	}
	if _, err := os.Stat(must2(b.h.drives.real(diskOf("lb")))); err != nil {
		t.Errorf("a refused removal touched the disk: %v", err)
	}
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestMachinesThatAreNotThere(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	p := scripts.VMParams{ID: "8b3a0c5e-0000-0000-0000-000000000000", Mark: mark}
	refuse(b, b.v.VMStart, p, "notFound", "unable to find")
	refuse(b, b.v.VMStop, scripts.VMStopParams{ID: p.ID, Mark: mark}, "notFound")
	refuse(b, b.v.VMState, p, "notFound")
	refuse(b, b.v.SeedEject, p, "notFound")
	refuse(b, b.v.CheckpointCreate, scripts.CheckpointParams{ID: p.ID, Mark: mark, Name: "x"}, "notFound")
	if r := must(b, b.v.VMRemove, scripts.VMRemoveParams{Name: "demo-lb", Node: "lb", Mark: mark, Folder: folder}); r.Removed {
		t.Error("a machine that was not there was removed")
	}
}

func TestAMachineStartsBootsAndStops(t *testing.T) {
	b := newBench(t, Options{BootTime: 50 * time.Millisecond})
	b.lay()
	vm := b.machine("lb", linuxImage)
	start := scripts.VMParams{ID: vm.ID, Mark: mark}
	if r := must(b, b.v.VMStart, start); !r.Changed {
		t.Error("it did not start")
	}
	if r := must(b, b.v.VMState, start); r.State != "Running" || r.Heartbeat != "NoContact" {
		t.Errorf("while it boots: %+v", r)
	}
	if r := must(b, b.v.VMStart, start); r.Changed {
		t.Error("it started twice")
	}
	waitFor(t, "the heartbeat", func() bool { return must(b, b.v.VMState, start).Heartbeat == "OkApplicationsHealthy" })
	stop := scripts.VMStopParams{ID: vm.ID, Mark: mark, Seconds: 10}
	if r := must(b, b.v.VMStop, stop); !slices.Equal(r.What, []string{"shut down"}) {
		t.Errorf("stopped: %+v", r)
	}
	if r := must(b, b.v.VMStop, stop); r.Changed {
		t.Error("it stopped twice")
	}
	if r := must(b, b.v.VMState, start); r.State != "Off" || r.Heartbeat != "" || r.UptimeSeconds != 0 {
		t.Errorf("once off: %+v", r)
	}
}

func TestAMachineThatIsStillBootingIsTurnedOff(t *testing.T) {
	b := newBench(t, Options{BootTime: time.Hour})
	b.lay()
	vm := b.machine("lb", linuxImage)
	b.start(vm.ID)
	if r := must(b, b.v.VMStop, scripts.VMStopParams{ID: vm.ID, Mark: mark, Seconds: 10}); !slices.Equal(r.What, []string{"turned off"}) {
		t.Errorf("got %+v", r)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestMemoryRunsOutAtStart(t *testing.T) {
	b := newBench(t, Options{MemoryMB: 3000})
	b.lay()
	first, second := b.machine("lb", linuxImage), b.machine("be1", linuxImage, mac("00155D010102"))
	b.start(first.ID)
	refuse(b, b.v.VMStart, scripts.VMParams{ID: second.ID, Mark: mark}, "noMemory", "demo-be1", "2048 megabytes", "0x800705AA")
	must(b, b.v.VMStop, scripts.VMStopParams{ID: first.ID, Mark: mark})
	b.start(second.ID)
}

func TestAMACAddressThatIsOnTheSwitchAlreadyStopsAStart(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	first, second := b.machine("lb", linuxImage), b.machine("be1", linuxImage)
	b.start(first.ID)
	refuse(b, b.v.VMStart, scripts.VMParams{ID: second.ID, Mark: mark}, "OperationFailed", "invalid address", "demo-lb")
}

func TestAMachineWithoutItsParentDiskOrSeedDoesNotStart(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	b.upload(folder+`\seeds\lb.iso`, []byte("iso"))
	b.upload(folder+`\own.vhdx`, []byte(`{"l4labImage":1,"os":"linux"}`))
	vm := b.machine("lb", folder+`\own.vhdx`, func(p *scripts.VMEnsureParams) { p.DVD = folder + `\seeds\lb.iso` })
	start := scripts.VMParams{ID: vm.ID, Mark: mark}
	must(b, b.v.FilesRemove, scripts.FilesRemoveParams{Folder: folder, Mark: mark, Paths: []string{folder + `\seeds`}})
	refuse(b, b.v.VMStart, start, "OperationFailed", "failed to start", "lb.iso")
	if r := must(b, b.v.SeedEject, start); !r.Changed {
		t.Error("no seed was ejected")
	}
	if r := must(b, b.v.SeedEject, start); r.Changed {
		t.Error("a seed was ejected twice")
	}
	must(b, b.v.FilesRemove, scripts.FilesRemoveParams{Folder: folder, Mark: mark, Paths: []string{folder + `\own.vhdx`}})
	refuse(b, b.v.VMStart, start, "OperationFailed", "failed to start", "own.vhdx")
}

func TestGuestsAreToldWhatTheMachineIs(t *testing.T) {
	g := &recorder{Guests: newNoNetwork(0, func(string) string { return t.TempDir() })}
	b := newBench(t, Options{Guests: g})
	b.lay()
	b.upload(folder+`\seeds\be1.iso`, []byte("iso"))
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("be1"), Parent: windowsImage, Folder: folder})
	must(b, b.v.UnattendWrite, scripts.UnattendWriteParams{Disk: diskOf("be1"), Content: "PHg+"})
	vm := b.machine("be1", windowsImage, func(p *scripts.VMEnsureParams) {
		p.DVD, p.SecureBoot, p.Spoofing = folder+`\seeds\be1.iso`, "MicrosoftWindows", false
	})
	b.start(vm.ID)
	m := g.started[0]
	if m.ID != vm.ID || m.Name != "demo-be1" || m.OS != topology.Windows || m.MAC.String() != "00:15:5d:01:01:01" || m.Spoofing || !m.SecureBoot ||
		string(m.Unattend) != "<x>" || m.Switch != b.observe().Switch.ID {
		t.Errorf("got %+v", m)
	}
	if content, err := os.ReadFile(m.Seed); err != nil || string(content) != "iso" {
		t.Errorf("the seed is %q, %v", content, err)
	}
}

func TestAMachineIsRemovedInAnyHalfMadeState(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	remove := scripts.VMRemoveParams{Name: "demo-lb", Node: "lb", Mark: mark, Folder: folder}
	exists := func() bool { return must(b, b.v.FileProbe, transfer.FileProbeParams{Path: diskOf("lb")}).Exists }
	// A disk alone.
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("lb"), Parent: linuxImage, Folder: folder})
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("lb2"), Parent: linuxImage, Folder: folder})
	if r := must(b, b.v.VMRemove, remove); !r.Removed || exists() {
		t.Errorf("a disk alone: %+v, still there: %t", r, exists())
	}
	// A seed alone.
	b.upload(folder+`\seeds\lb.iso`, []byte("iso"))
	if r := must(b, b.v.VMRemove, remove); !r.Removed {
		t.Error("a seed alone stayed")
	}
	// A machine without notes in the lab's folder: New-VM came through, Set-VM did not.
	vm := b.machine("lb", linuxImage)
	b.h.store.Machines[0].Notes = ""
	if r := must(b, b.v.VMRemove, remove); !r.Removed || exists() {
		t.Errorf("an unfinished machine: %+v, still there: %t", r, exists())
	}
	// A machine that is on, with a checkpoint.
	vm = b.machine("lb", linuxImage)
	b.start(vm.ID)
	must(b, b.v.CheckpointCreate, scripts.CheckpointParams{ID: vm.ID, Mark: mark, Name: "setup"})
	if r := must(b, b.v.VMRemove, remove); !r.Removed || exists() {
		t.Errorf("a machine that is on: %+v, still there: %t", r, exists())
	}
	if r := must(b, b.v.VMRemove, remove); r.Removed {
		t.Error("it was removed twice")
	}
	entries, err := os.ReadDir(must2(b.h.drives.real(folder + `\disks`)))
	if err != nil || len(entries) != 1 || entries[0].Name() != "lb2.vhdx" {
		t.Errorf("left in the folder of disks: %v, %v", entries, err)
	}
	if entries, _ := os.ReadDir(b.h.o.Dir + "/machines"); len(entries) != 0 {
		t.Errorf("left of machines: %v", entries)
	}
}
