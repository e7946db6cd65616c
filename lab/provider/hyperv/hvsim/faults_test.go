package hvsim

import (
	"testing"
	"time"

	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows/guestscripts"
)

func TestFaultsAreReadAndWrittenAlike(t *testing.T) {
	for _, text := range []string{
		"reset@3", "reset-after@1", "500@7x3", "slow@2=1.5s", "truncate@4", "auth-lost@9", "quota@2", "shell-lost@5",
		"never-boots", "never-boots=be1", "reboot-hangs=demo-lb", "disk-full=0", "memory-short=512",
	} {
		f, err := ParseFault(text)
		if err != nil || f.String() != text {
			t.Errorf("%s was read as %+v (%s), %v", text, f, f, err)
		}
	}
	for _, text := range []string{
		"", "reset", "reset@", "reset@0", "reset@-1", "reset@x", "reset@3x0", "reset@3=1s", "slow@3", "slow@3=x", "slow@3=-1s", "never-boots@3",
		"never-boots=", "disk-full", "disk-full=-1", "memory-short=many", "flood", "reset@3@4",
	} {
		if f, err := ParseFault(text); err == nil {
			t.Errorf("%q was read as %+v", text, f)
		}
	}
}

func TestFaultsOfTheWireBefallTheRequestsTheyName(t *testing.T) {
	l := faultList{{Kind: FaultServerError, Request: 2, Times: 2}, {Kind: FaultSlow, Request: 5, Delay: time.Second}, {Kind: FaultNeverBoots}}
	want := map[int]FaultKind{2: FaultServerError, 3: FaultServerError, 5: FaultSlow}
	for request := 1; request <= 6; request++ {
		got := l.wire(request)
		if (got == nil) != (want[request] == "") || got != nil && got.Kind != want[request] {
			t.Errorf("request %d: %+v", request, got)
		}
	}
}

func TestAMachineThatNeverBootsIsOnAndSilent(t *testing.T) {
	b := newBench(t, Options{Faults: []Fault{{Kind: FaultNeverBoots, Machine: "be1"}}})
	b.lay()
	silent, fine := b.windowsGuest("be1"), b.machine("lb", linuxImage, mac("00155D010102"))
	b.start(fine.ID)
	state := func(id string) scripts.VMStateResult {
		return must(b, b.v.VMState, scripts.VMParams{ID: id, Mark: mark})
	}
	if r := state(silent.ID); r.State != "Running" || r.Heartbeat != "NoContact" {
		t.Errorf("got %+v", r)
	}
	if r := state(fine.ID); r.Heartbeat != "OkApplicationsHealthy" {
		t.Errorf("the other: %+v", r)
	}
	if r := must(b, b.v.VMStop, scripts.VMStopParams{ID: silent.ID, Mark: mark, Seconds: 5}); !r.Changed || state(silent.ID).State != "Off" {
		t.Errorf("it was not turned off: %+v", r)
	}
	b.start(silent.ID)
	if r := must(b, b.v.VMRemove, scripts.VMRemoveParams{Name: "demo-be1", Node: "be1", Mark: mark, Folder: folder}); !r.Removed {
		t.Error("it was not removed")
	}
}

func TestARestartThatHangsIsHealedByTurningTheMachineOffAndOn(t *testing.T) {
	b := newBench(t, Options{Faults: []Fault{{Kind: FaultRebootHangs}}})
	b.lay()
	vm := b.windowsGuest("be1")
	g := guestscripts.New()
	heartbeat := func() string { return must(b, b.v.VMState, scripts.VMParams{ID: vm.ID, Mark: mark}).Heartbeat }
	if heartbeat() != "OkApplicationsHealthy" {
		t.Error("the first boot hangs already")
	}
	if _, failed := invoke(b, vm.ID, g.Restart, guestscripts.None{}); failed != nil {
		t.Fatal(failed)
	}
	if got := heartbeat(); got != "NoContact" {
		t.Errorf("after the restart: %s", got)
	}
	must(b, b.v.VMStop, scripts.VMStopParams{ID: vm.ID, Mark: mark})
	b.start(vm.ID)
	if got := heartbeat(); got != "OkApplicationsHealthy" {
		t.Errorf("after turning it off and on: %s", got)
	}
}

func TestAHostThatIsFullOrShortOfMemory(t *testing.T) {
	b := newBench(t, Options{Faults: []Fault{{Kind: FaultDiskFull, MB: 1}, {Kind: FaultMemoryShort, MB: 100}}})
	b.lay()
	if r := must(b, b.v.HostCheck, scripts.HostCheckParams{Folder: folder, Names: nil, Mark: mark}); r.FreeMemoryMB != 100 || r.FreeDiskMB > 1 {
		t.Errorf("got %+v", r)
	}
	wantFailure(t, b.tryUpload(`C:\f`, noise(2<<20)), "noSpace")
	vm := b.machine("lb", linuxImage)
	refuse(b, b.v.VMStart, scripts.VMParams{ID: vm.ID, Mark: mark}, "noMemory")
}
