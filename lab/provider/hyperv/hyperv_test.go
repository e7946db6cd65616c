package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l4lab/lab/guest"
	"l4lab/lab/powershell"
	"l4lab/lab/powershell/powershelltest"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role"
	"l4lab/topology"
)

func mustPrefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func TestALabIsMadeAndFoundAsWanted(t *testing.T) {
	b := newBench(t)
	b.up(t)
	actual, err := b.p.Observe(t.Context(), b.lab)
	if err != nil {
		t.Fatal(err)
	}
	if actual.Switch == nil || actual.Switch.MTU != 1500 || len(actual.Machines) != 4 {
		t.Fatalf("found %+v", actual)
	}
	for name, m := range actual.Machines {
		if len(m.Faults) > 0 {
			t.Errorf("%s: faults %v", name, m.Faults)
		}
		if address, _ := b.lab.Topology.Address(name); m.Prefix != netip.PrefixFrom(address, 24) {
			t.Errorf("%s: prefix %s", name, m.Prefix)
		}
	}
	vm := b.vms["demo-be1"]
	if vm.MAC != "00155D01010A" || vm.MemoryMB != 2048 || vm.Switch != "l4lab-demo" || !vm.Spoofing || !slices.Equal(vm.Checkpoints, []string{readyCheckpoint}) {
		t.Errorf("the machine is %+v", *vm)
	}
	if mark := string(b.files[`C:\l4lab\demo\l4lab.mark`]); !strings.HasPrefix(mark, "l4lab lab=demo owner=") || len(mark) != len("l4lab lab=demo owner=")+16 {
		t.Errorf("the folder's mark is %q", mark)
	}
	if want := []string{`lb {"first":1025,"count":31743}`}; !slices.Equal(b.ports, want) {
		t.Errorf("source ports were set on %q, want %q", b.ports, want)
	}
	if b.maxDisks > 1 {
		t.Errorf("%d operations on disks or the switch at once", b.maxDisks)
	}
	if b.logons != 1 {
		t.Errorf("logged on %d times", b.logons)
	}
}

func TestTheClientHasItsRoutesAndItsSecondAddress(t *testing.T) {
	b := newBench(t)
	b.up(t)
	m, err := b.p.Machine(b.lab, "client")
	if err != nil {
		t.Fatal(err)
	}
	routes := role.RoutesOf(b.lab.Topology)
	second := netip.MustParseAddr("20.1.1.200")
	if err := errors.Join(m.System.EnsureRoutes(t.Context(), routes), m.System.EnsureVIPs(t.Context(), []netip.Addr{second})); err != nil {
		t.Fatal(err)
	}
	f, err := m.System.Observe(t.Context())
	if err != nil || !slices.Equal(f.Routes, routes) || !slices.Equal(f.VIPs, []netip.Addr{second}) {
		t.Errorf("found %+v, %v; want %v", f, err, routes)
	}
}

func TestTheClientRunsTheHostsPrograms(t *testing.T) {
	b := newBench(t)
	b.up(t)
	var ran []string
	powershelltest.On(b.Machine, scripts.New().HostExec, func(_ context.Context, p scripts.HostExecParams) (scripts.ExecResult, error) {
		if p.Program == "none" {
			return scripts.ExecResult{}, &powershell.ScriptError{Script: "host-exec", Code: scripts.NotFound, Message: "there is no such program on the host", Target: "none"}
		}
		ran = append(ran, p.Program+" "+strings.Join(p.Arguments, " "))
		return scripts.ExecResult{}, nil
	})
	m, err := b.p.Machine(b.lab, "client")
	if err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"curl", "-s", "http://40.1.1.1/"}, {`C:\Tools\x.exe`, "1"}, {"lbagent", "version"}} {
		if err := m.Guest.Run(t.Context(), guest.Command{Argv: argv}); err != nil {
			t.Error(err)
		}
	}
	if len(ran) != 3 || ran[0] != "curl -s http://40.1.1.1/" || ran[1] != `C:\Tools\x.exe 1` ||
		!strings.HasPrefix(ran[2], `C:\l4lab\demo\bin\`) || !strings.HasSuffix(ran[2], ".exe version") {
		t.Errorf("the host ran %q", ran)
	}
	b.Forget()
	if err := m.Guest.Run(t.Context(), guest.Command{Argv: []string{"lbagent", "version"}}); err != nil || b.Count("file-probe") != 0 {
		t.Errorf("the program, which is there, is looked for again: %v, %v", b.Calls(), err)
	}
	if err := m.Guest.Run(t.Context(), guest.Command{Argv: []string{"none"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want ErrNotExist", err)
	}
}

func TestAMachineWhoseMakingDidNotEndIsMadeAnew(t *testing.T) {
	b := newBench(t)
	b.up(t)
	old := b.vms["demo-be1"].ID
	b.vms["demo-be1"].Checkpoints = []string{}
	if err := b.p.EnsureNode(t.Context(), b.lab, "be1"); err != nil {
		t.Fatal(err)
	}
	if b.vms["demo-be1"].ID == old {
		t.Error("the half-made machine was kept")
	}
}

func TestAMachineThatIsOffIsTurnedOnAgain(t *testing.T) {
	b := newBench(t)
	b.up(t)
	b.vms["demo-be1"].State = "Off"
	actual, err := b.p.Observe(t.Context(), b.lab)
	if err != nil || !slices.Contains(actual.Machines["be1"].Faults, "is off") {
		t.Fatalf("faults %v, %v", actual.Machines["be1"].Faults, err)
	}
	b.Forget()
	if err := b.p.EnsureNode(t.Context(), b.lab, "be1"); err != nil {
		t.Fatal(err)
	}
	if b.vms["demo-be1"].State != running || b.Count("disk-ensure") != 0 || b.Count("vm-ensure") != 0 {
		t.Errorf("the machine is %s after %v", b.vms["demo-be1"].State, b.Calls())
	}
}

func TestAMachineThatDoesNotAnswerIsSetBackToItsCheckpoint(t *testing.T) {
	b := newBench(t)
	b.up(t)
	b.deaf[b.vms["demo-be1"].ID] = true
	if err := b.p.EnsureNode(t.Context(), b.lab, "be1"); err != nil {
		t.Fatal(err)
	}
	if b.Count("checkpoint-restore") != 1 {
		t.Errorf("calls %v", b.Calls())
	}
}

func TestAChangedTopologyChangesTheMachineWhileItIsOff(t *testing.T) {
	b := newBench(t)
	b.up(t)
	next := b.lab
	h := *b.lab.Topology.Providers.HyperV
	image := *h.Images.Windows
	signed := true
	image.MemoryMB, image.SecureBoot = 4096, &signed
	h.Images.Windows = &image
	next.Topology.Providers.HyperV = &h
	// The provider knows the host by its address: it is the same one.
	h2, err := b.p.host(t.Context(), next, false)
	if err != nil {
		t.Fatal(err)
	}
	if h2.target.Images.Windows.MemoryMB != 4096 {
		t.Fatal("the host still has the old block")
	}
	if err := b.p.EnsureNode(t.Context(), next, "be1"); err != nil {
		t.Fatal(err)
	}
	if vm := b.vms["demo-be1"]; vm.MemoryMB != 4096 || !vm.SecureBoot || vm.State != running || len(vm.Checkpoints) != 1 {
		t.Errorf("the machine is %+v", *vm)
	}
}

func TestAGuestThatNeverAnswersIsAnErrorThatSaysHowToLook(t *testing.T) {
	b := newBench(t)
	if err := b.p.EnsureSwitch(t.Context(), b.lab); err != nil {
		t.Fatal(err)
	}
	b.Meddle = func(script string, _ []byte) error {
		if script == "guest-invoke" {
			return &powershell.ScriptError{Script: script, Code: scripts.GuestNotReady, Message: "the guest does not answer"}
		}
		return nil
	}
	err := b.p.EnsureNode(t.Context(), b.lab, "be1")
	var waited *guest.AwaitError
	if !errors.As(err, &waited) || !errors.Is(err, guest.ErrLimit) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{"be1 (20.1.1.10)", "answers PowerShell Direct", "vmconnect localhost demo-be1", "the guest does not answer"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestALostLogonEndsTheWaitAtOnce(t *testing.T) {
	b := newBench(t)
	if err := b.p.EnsureSwitch(t.Context(), b.lab); err != nil {
		t.Fatal(err)
	}
	b.Meddle = func(script string, _ []byte) error {
		if script == "vm-state" {
			return powershell.ErrAuth
		}
		return nil
	}
	err := b.p.EnsureNode(t.Context(), b.lab, "be1")
	if !errors.Is(err, guest.ErrNever) || !errors.Is(err, powershell.ErrAuth) {
		t.Errorf("error %v, want ErrAuth at once", err)
	}
}

func TestNothingIsAskedOfAHostThatNobodyNamed(t *testing.T) {
	b := newBench(t)
	bare := provider.Lab{Topology: topology.Topology{Name: "demo"}, Dir: b.lab.Dir}
	actual, err := b.p.Observe(t.Context(), bare)
	if err != nil || actual.Switch != nil || len(actual.Machines) != 0 {
		t.Errorf("found %+v, %v", actual, err)
	}
	if err := errors.Join(b.p.Destroy(t.Context(), bare), b.p.RemoveNode(t.Context(), bare, "be1")); err != nil {
		t.Error(err)
	}
	if b.logons != 0 {
		t.Error("a host was logged on to")
	}
	if unseen := b.p.Unseen(bare); !strings.Contains(unseen, "cannot be looked at") {
		t.Errorf("unseen: %q", unseen)
	}
}

func TestALabIsRemovedByItsNameAndFolderAlone(t *testing.T) {
	b := newBench(t)
	b.up(t)
	bare := provider.Lab{Topology: topology.Topology{Name: "demo"}, Dir: b.lab.Dir}
	if unseen := b.p.Unseen(bare); unseen != "" {
		t.Errorf("unseen: %q", unseen)
	}
	if err := b.p.Destroy(t.Context(), bare); err != nil {
		t.Fatal(err)
	}
	for path := range b.files {
		if strings.HasPrefix(path, `C:\l4lab\demo\`) && !strings.Contains(path, "disks") {
			t.Errorf("%s is left", path)
		}
	}
	if len(b.vms) != 0 || b.sw != nil {
		t.Errorf("left: machines %v, switch %v", b.vms, b.sw)
	}
}

func TestDestroyCarriesOnAfterAnError(t *testing.T) {
	b := newBench(t)
	b.up(t)
	b.Meddle = func(script string, input []byte) error {
		if script == "vm-remove" && strings.Contains(string(input), "demo-be1") {
			return fmt.Errorf("%w: be1 is stuck", powershell.ErrTimeout)
		}
		return nil
	}
	err := b.p.Destroy(t.Context(), b.lab)
	if !errors.Is(err, powershell.ErrTimeout) || len(b.vms) != 1 || b.sw != nil {
		t.Errorf("error %v; left %v, switch %v", err, b.vms, b.sw)
	}
}

func TestWhatIsForeignIsNeverTouched(t *testing.T) {
	b := newBench(t)
	b.foreign = []string{"machine demo-be1"}
	if _, err := b.p.Observe(t.Context(), b.lab); !errors.Is(err, provider.ErrForeign) || !strings.Contains(err.Error(), "demo-be1") {
		t.Errorf("error %v, want ErrForeign", err)
	}
	b.files[`C:\l4lab\demo\l4lab.mark`] = []byte("l4lab lab=demo owner=another")
	if err := b.p.EnsureSwitch(t.Context(), b.lab); !errors.Is(err, provider.ErrForeign) {
		t.Errorf("error %v, want ErrForeign", err)
	}
	b.Meddle = func(script string, _ []byte) error {
		if strings.HasSuffix(script, "-remove") {
			return &powershell.ScriptError{Script: script, Code: scripts.Foreign, Message: "it lacks the mark", Target: "demo-be1"}
		}
		return nil
	}
	if err := b.p.Destroy(t.Context(), b.lab); err != nil {
		t.Errorf("what is another's is no error of a removal: %v", err)
	}
}

func TestThePasswordShowsNowhere(t *testing.T) {
	b := newBench(t)
	b.up(t)
	if !slices.Equal(b.passes, []string{canary}) {
		t.Fatalf("logged on with %q", b.passes)
	}
	var texts []string
	b.Meddle = func(script string, input []byte) error {
		texts = append(texts, string(input))
		return fmt.Errorf("%w: %s", powershell.ErrProtocol, script)
	}
	for _, err := range []error{b.p.EnsureSwitch(t.Context(), b.lab), b.p.EnsureNode(t.Context(), b.lab, "be1"), b.p.Destroy(t.Context(), b.lab)} {
		texts = append(texts, fmt.Sprintf("%v %+v %#v", err, err, err))
	}
	for _, r := range b.p.Check(t.Context(), b.lab) {
		texts = append(texts, fmt.Sprintf("%+v", r))
	}
	h, err := b.p.host(t.Context(), b.lab, false)
	if err != nil {
		t.Fatal(err)
	}
	texts = append(texts, fmt.Sprintf("%+v %#v", h.target, b.p.o))
	err = filepath.WalkDir(b.lab.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		texts = append(texts, string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range b.files {
		texts = append(texts, path+string(data))
	}
	for _, text := range texts {
		if strings.Contains(text, canary) {
			t.Errorf("the password shows in %.200s", text)
		}
	}
}

func TestWhereAPasswordComesFrom(t *testing.T) {
	dir := t.TempDir()
	open, closed, empty := filepath.Join(dir, "open"), filepath.Join(dir, "closed"), filepath.Join(dir, "empty")
	for path, mode := range map[string]os.FileMode{open: 0o644, closed: 0o600, empty: 0o600} {
		text := "secret\nnot this\n"
		if path == empty {
			text = "\n"
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HV_TEST_SECRET", "secret")
	asked := New(Options{Ask: func(context.Context, string) (string, error) { return "secret", nil }})
	for _, c := range []struct {
		name string
		p    *Provider
		from topology.Credential
		want string
	}{
		{"a variable", New(Options{}), topology.Credential{PasswordEnv: "HV_TEST_SECRET"}, ""},
		{"a variable that is not set", New(Options{}), topology.Credential{PasswordEnv: "HV_TEST_NONE"}, "HV_TEST_NONE is not set"},
		{"a file's first line", New(Options{}), topology.Credential{PasswordFile: closed}, ""},
		{"a file that others can read", New(Options{}), topology.Credential{PasswordFile: open}, "chmod 600"},
		{"an empty file", New(Options{}), topology.Credential{PasswordFile: empty}, "is empty"},
		{"the terminal", asked, topology.Credential{}, ""},
		{"nowhere", New(Options{}), topology.Credential{}, "no terminal to ask at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.p.passwordOf(t.Context(), c.from, "someone")
			if c.want == "" && (err != nil || string(got) != "secret") {
				t.Errorf("error %v", err)
			}
			if c.want != "" && (!errors.Is(err, ErrSecret) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestDoctorSaysWhatIsMissingAndWhatToDo(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(b *bench)
		want  string
		found string
	}{
		{"no block", func(b *bench) { b.lab.Topology.Providers.HyperV = nil }, "providers.hyperv", "no such block"},
		{"no Hyper-V", func(b *bench) { b.check.HyperV = false }, "Hyper-V", "not enabled"},
		{"no module", func(b *bench) { b.check.Module = "" }, "Hyper-V module", "not installed"},
		{"an ordinary user", func(b *bench) { b.check.Elevated = false }, "privileges", "ordinary"},
		{"an old PowerShell", func(b *bench) { b.check.PowerShell = "4.0" }, "PowerShell", "4.0"},
		{"another's machine", func(b *bench) { b.check.Foreign = []string{"machine demo-be1"} }, "names", "demo-be1"},
		{"no image", func(b *bench) { delete(b.files, `C:\images\windows.vhdx`) }, "image for windows", "there is no"},
		{"no installer", func(b *bench) { b.lab.Topology.Providers.HyperV.EBPF.MSI = "/nosuch.msi" }, "ebpf.msi", "no such file"},
		{"no password", func(b *bench) { os.Unsetenv("HV_TEST_PASSWORD") }, "WinRM", "HV_TEST_PASSWORD is not set"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			if err := provider.CheckFatal("hyperv", b.p.Check(t.Context(), b.lab)); err != nil {
				t.Fatalf("a host that has all lacks something: %v", err)
			}
			if err := b.p.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.spoil(b)
			err := provider.CheckFatal("hyperv", b.p.Check(t.Context(), b.lab))
			var missing *provider.MissingError
			if !errors.As(err, &missing) || len(missing.Missing) != 1 {
				t.Fatalf("missing %v, want one thing", err)
			}
			if r := missing.Missing[0]; r.Name != c.want || !strings.Contains(r.Found, c.found) || r.Remedy == "" {
				t.Errorf("missing %+v, want %s: %s", r, c.want, c.found)
			}
		})
	}
}
