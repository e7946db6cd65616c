package hyperv

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l4lab/lab/guest/answer"
	"l4lab/lab/powershell"
	"l4lab/lab/powershell/powershelltest"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

// canary is the host's password in every test: it must show nowhere.
const canary = "c4nary-7f3a"

// world is a Hyper-V host of a test, with Windows guests: plain data.
type world struct {
	*powershelltest.Machine
	mu       sync.Mutex
	files    map[string][]byte
	sw       *scripts.SwitchFacts
	vms      map[string]*scripts.VMFacts // by name
	boots    map[string]int              // by id
	signing  map[string]bool             // by id: on from the next boot on
	ebpf     map[string]string
	ports    []string // whose source ports were set, and how
	foreign  []string
	logons   int
	passes   []string
	deaf     map[string]bool // ids that never answer
	check    scripts.HostCheckResult
	disks    int
	maxDisks int
}

// bench is a provider on such a host.
type bench struct {
	*world
	p   *Provider
	lab provider.Lab
}

// block has Windows nodes alone: Linux ones want a real SSH server.
const block = `
name: demo
switch: {subnet: 20.1.1.0/24}
client: {address: 20.1.1.100}
nodes:
  lb:  {role: loadbalancer, os: windows, address: 20.1.1.1}
  be1: {role: backend, os: windows, address: 20.1.1.10}
  be2: {role: backend, os: windows, address: 20.1.1.20}
services:
  - {id: 1, vip: 40.1.1.1, port: 80, backends: [be1, be2]}
providers:
  hyperv:
    host: {address: hv1, credentials: {user: lab, passwordEnv: HV_TEST_PASSWORD}}
    images:
      windows: {path: 'C:\images\windows.vhdx'}
`

func newBench(t *testing.T) *bench {
	t.Helper()
	t.Setenv("HV_TEST_PASSWORD", canary)
	top, err := topology.Parse("lab.yaml", []byte(block))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "lbagent.exe")
	msi := filepath.Join(dir, "ebpf.msi")
	for _, path := range []string{program, msi} {
		if err := os.WriteFile(path, []byte("content of "+filepath.Base(path)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	top.Providers.HyperV.EBPF.MSI = msi
	w := &world{
		Machine: powershelltest.New(), files: map[string][]byte{`C:\images\windows.vhdx`: []byte("image")},
		vms: map[string]*scripts.VMFacts{}, boots: map[string]int{}, signing: map[string]bool{}, ebpf: map[string]string{}, deaf: map[string]bool{},
		check: scripts.HostCheckResult{OS: "Windows", Version: "10.0", PowerShell: "5.1.20348", Edition: "Desktop", Elevated: true, HyperV: true,
			Module: "2.0", FreeMemoryMB: 65536, FreeDiskMB: 65536, SSHServer: "Running", Pktmon: true, Foreign: []string{}},
	}
	w.answer(scripts.New())
	b := &bench{world: w, lab: provider.Lab{Topology: top, Dir: filepath.Join(dir, "demo")}}
	if err := os.MkdirAll(b.lab.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.p = New(Options{
		Programs: map[topology.OS]string{topology.Windows: program},
		Connect: func(_ context.Context, e powershell.Endpoint) (powershell.Runner, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.logons++
			w.passes = append(w.passes, string(e.Password))
			return w, nil
		},
		Limits: Limits{Running: time.Second, Heartbeat: time.Second, Direct: 500 * time.Millisecond, Restart: time.Second, Revive: 300 * time.Millisecond, Pause: time.Millisecond},
	})
	return b
}

// up makes the switch and all machines.
func (b *bench) up(t *testing.T) {
	t.Helper()
	if err := b.p.EnsureSwitch(t.Context(), b.lab); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, name := range b.lab.Topology.MachineNames() {
		wg.Go(func() {
			if err := b.p.EnsureNode(t.Context(), b.lab, name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func (w *world) vm(id string) *scripts.VMFacts {
	for _, vm := range w.vms {
		if vm.ID == id {
			return vm
		}
	}
	return nil
}

func notFound(what string) error {
	return &powershell.ScriptError{Script: "test", Code: scripts.NotFound, Message: "there is none", Target: what}
}

// disk is held by what works on disks: two at once are a fault of the provider's.
func (w *world) disk() func() {
	w.mu.Lock()
	w.disks++
	w.maxDisks = max(w.maxDisks, w.disks)
	w.mu.Unlock()
	time.Sleep(time.Millisecond)
	w.mu.Lock()
	w.disks--
	return w.mu.Unlock
}

func (w *world) answer(v scripts.Verbs) {
	w.answerHost(v)
	w.answerMachines(v)
	w.answerFiles(v)
	w.answerGuests(v)
}

func (w *world) answerHost(v scripts.Verbs) {
	powershelltest.On(w.Machine, v.HostCheck, func(context.Context, scripts.HostCheckParams) (scripts.HostCheckResult, error) {
		return w.check, nil
	})
	powershelltest.On(w.Machine, v.LabObserve, func(context.Context, scripts.LabObserveParams) (scripts.LabObserveResult, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		r := scripts.LabObserveResult{Foreign: slices.Clone(w.foreign), Machines: []scripts.VMFacts{}}
		if w.sw != nil {
			// The result is read after the lock is given back.
			sw := *w.sw
			r.Switch = &sw
		}
		for _, vm := range w.vms {
			r.Machines = append(r.Machines, *vm)
		}
		return r, nil
	})
	powershelltest.On(w.Machine, v.SwitchEnsure, func(_ context.Context, p scripts.SwitchEnsureParams) (scripts.SwitchEnsureResult, error) {
		defer w.disk()()
		if w.sw == nil {
			w.sw = &scripts.SwitchFacts{Name: p.Name, MAC: "00-15-5D-AA-BB-CC", MTU: 1500, Addresses: []string{}, Routes: []scripts.HostRoute{}}
		}
		return scripts.SwitchEnsureResult{Switch: *w.sw}, nil
	})
	powershelltest.On(w.Machine, v.SwitchRemove, func(context.Context, scripts.SwitchRemoveParams) (scripts.Removed, error) {
		defer w.disk()()
		w.sw = nil
		return scripts.Removed{Removed: true}, nil
	})
	powershelltest.On(w.Machine, v.HostAddressEnsure, func(_ context.Context, p scripts.HostAddressEnsureParams) (scripts.HostAddressEnsureResult, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sw.Addresses, w.sw.MTU = p.Addresses, p.MTU
		return scripts.HostAddressEnsureResult{Switch: *w.sw}, nil
	})
	powershelltest.On(w.Machine, v.HostRoutesEnsure, func(_ context.Context, p scripts.HostRoutesEnsureParams) (scripts.Changed, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sw.Routes = p.Routes
		return scripts.Changed{}, nil
	})
	powershelltest.On(w.Machine, v.ImageProbe, func(_ context.Context, p scripts.ImageProbeParams) (scripts.ImageProbeResult, error) {
		defer w.disk()()
		_, ok := w.files[p.Path]
		return scripts.ImageProbeResult{Exists: ok, Format: "VHDX", Type: "Dynamic"}, nil
	})
	powershelltest.On(w.Machine, v.PortProxyRemove, func(context.Context, scripts.PortProxyRemoveParams) (scripts.Removed, error) {
		return scripts.Removed{}, nil
	})
	powershelltest.On(w.Machine, v.CaptureStop, func(context.Context, scripts.CaptureStopParams) (scripts.CaptureStopResult, error) {
		return scripts.CaptureStopResult{}, notFound("capture")
	})
}

func (w *world) answerMachines(v scripts.Verbs) {
	powershelltest.On(w.Machine, v.DiskEnsure, func(_ context.Context, p scripts.DiskEnsureParams) (scripts.Changed, error) {
		defer w.disk()()
		w.files[p.Path] = []byte(p.Parent)
		return scripts.Changed{Changed: true}, nil
	})
	powershelltest.On(w.Machine, v.UnattendWrite, func(_ context.Context, p scripts.UnattendWriteParams) (scripts.Changed, error) {
		defer w.disk()()
		content, err := base64.StdEncoding.DecodeString(p.Content)
		w.files[p.Disk+"!unattend"] = content
		return scripts.Changed{Changed: true}, err
	})
	powershelltest.On(w.Machine, v.VMEnsure, func(_ context.Context, p scripts.VMEnsureParams) (scripts.VMEnsureResult, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		vm := w.vms[p.Name]
		if vm == nil {
			vm = &scripts.VMFacts{Name: p.Name, ID: fmt.Sprintf("id-%s-%d", p.Node, len(w.boots)), Node: p.Node, State: "Off", Checkpoints: []string{}}
			w.vms[p.Name] = vm
			w.boots[vm.ID] = 0
		}
		if vm.State != "Off" {
			return scripts.VMEnsureResult{}, fmt.Errorf("%s is on", p.Name)
		}
		vm.MAC, vm.MemoryMB, vm.Processors, vm.Switch, vm.Spoofing = p.MAC, p.MemoryMB, p.Processors, p.Switch, p.Spoofing
		vm.Generation, vm.SecureBoot = p.Generation, p.SecureBoot != "Off"
		return scripts.VMEnsureResult{Machine: *vm}, nil
	})
	on := func(state string) func(context.Context, string) (scripts.Changed, error) {
		return func(_ context.Context, id string) (scripts.Changed, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			vm := w.vm(id)
			if vm == nil {
				return scripts.Changed{}, notFound(id)
			}
			if state == running && vm.State != running {
				w.boots[id]++
			}
			vm.State = state
			return scripts.Changed{Changed: true}, nil
		}
	}
	powershelltest.On(w.Machine, v.VMStart, func(ctx context.Context, p scripts.VMParams) (scripts.Changed, error) { return on(running)(ctx, p.ID) })
	powershelltest.On(w.Machine, v.VMStop, func(ctx context.Context, p scripts.VMStopParams) (scripts.Changed, error) {
		return on("Off")(ctx, p.ID)
	})
	powershelltest.On(w.Machine, v.VMState, func(_ context.Context, p scripts.VMParams) (scripts.VMStateResult, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		vm := w.vm(p.ID)
		if vm == nil {
			return scripts.VMStateResult{}, notFound(p.ID)
		}
		return scripts.VMStateResult{State: vm.State, Heartbeat: "OkApplicationsUnknown"}, nil
	})
	powershelltest.On(w.Machine, v.VMRemove, func(_ context.Context, p scripts.VMRemoveParams) (scripts.Removed, error) {
		defer w.disk()()
		delete(w.vms, p.Name)
		return scripts.Removed{Removed: true}, nil
	})
	powershelltest.On(w.Machine, v.CheckpointCreate, func(_ context.Context, p scripts.CheckpointParams) (scripts.Changed, error) {
		defer w.disk()()
		vm := w.vm(p.ID)
		vm.Checkpoints = append(vm.Checkpoints, p.Name)
		return scripts.Changed{Changed: true}, nil
	})
	powershelltest.On(w.Machine, v.CheckpointRemove, func(_ context.Context, p scripts.CheckpointParams) (scripts.Removed, error) {
		defer w.disk()()
		w.vm(p.ID).Checkpoints = []string{}
		return scripts.Removed{Removed: true}, nil
	})
	powershelltest.On(w.Machine, v.CheckpointRestore, func(_ context.Context, p scripts.CheckpointParams) (scripts.Changed, error) {
		defer w.disk()()
		delete(w.deaf, p.ID)
		return scripts.Changed{Changed: true}, nil
	})
}

func (w *world) answerFiles(v scripts.Verbs) {
	powershelltest.On(w.Machine, v.FileProbe, func(_ context.Context, p transfer.FileProbeParams) (transfer.FileProbeResult, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		data, ok := w.files[p.Path]
		beside := 0
		for path := range w.files {
			if path != p.Path && strings.HasPrefix(path, strings.TrimSuffix(p.Path, base(p.Path))) {
				beside++
			}
		}
		return transfer.FileProbeResult{Exists: ok, Bytes: int64(len(data)), SHA256: hashText(string(data)), Beside: beside}, nil
	})
	powershelltest.OnCall(w.Machine, v.FileReceive, func(_ context.Context, c powershell.Call, p transfer.FileReceiveParams) (transfer.FileReceiveResult, error) {
		z, err := gzip.NewReader(c.Stdin)
		if err != nil {
			return transfer.FileReceiveResult{}, err
		}
		data, err := io.ReadAll(z)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.files[p.Path] = data
		return transfer.FileReceiveResult{Bytes: int64(len(data))}, err
	})
	powershelltest.On(w.Machine, v.FilesRemove, func(_ context.Context, p scripts.FilesRemoveParams) (scripts.Removed, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for path := range w.files {
			if len(p.Paths) == 0 && strings.HasPrefix(path, p.Folder+`\`) {
				delete(w.files, path)
			}
		}
		return scripts.Removed{Removed: true}, nil
	})
}

// answerGuests has each guest answer the scripts that set-up runs.
func (w *world) answerGuests(v scripts.Verbs) {
	powershelltest.On(w.Machine, v.GuestPush, func(context.Context, scripts.GuestCopyParams) (scripts.Changed, error) {
		return scripts.Changed{Changed: true}, nil
	})
	guests := guestscripts.New()
	powershelltest.On(w.Machine, v.GuestInvoke, func(_ context.Context, p scripts.GuestInvokeParams) (scripts.GuestInvokeResult, error) {
		text, err := base64.StdEncoding.DecodeString(p.Script)
		if err != nil {
			return scripts.GuestInvokeResult{}, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		vm := w.vm(p.ID)
		switch {
		case vm == nil:
			return scripts.GuestInvokeResult{}, notFound(p.ID)
		case vm.State != running || w.deaf[p.ID]:
			return scripts.GuestInvokeResult{}, &powershell.ScriptError{Script: "guest-invoke", Code: scripts.GuestNotReady, Message: "the guest does not answer"}
		case !bytes.Contains(w.files[join(`C:\l4lab\demo\disks`, vm.Node+".vhdx!unattend")], []byte(answer.Hidden(powershell.Password(p.Credential.Password), "AdministratorPassword"))):
			return scripts.GuestInvokeResult{}, &powershell.ScriptError{Script: "guest-invoke", Code: scripts.GuestAuth, Message: "the guest refused the credentials"}
		}
		if string(text) == guests.PortsEnsure.Text {
			w.ports = append(w.ports, vm.Node+" "+string(p.Input))
		}
		result, err := w.invoke(guests, string(text), vm)
		if err != nil {
			return scripts.GuestInvokeResult{Error: &scripts.GuestError{Code: "failed", Message: err.Error()}}, nil
		}
		data, err := json.Marshal(result)
		return scripts.GuestInvokeResult{OK: true, Result: data}, err
	})
}

func (w *world) invoke(v guestscripts.Verbs, text string, vm *scripts.VMFacts) (any, error) {
	switch text {
	case v.Facts.Text:
		mac, _ := parseMAC(vm.MAC)
		return guestscripts.FactsResult{
			BootTime: fmt.Sprint(w.boots[vm.ID]), TestSigning: w.signing[vm.ID] && w.boots[vm.ID] > 1, EBPF: w.ebpf[vm.ID],
			Adapters: []guestscripts.AdapterFacts{{Name: "Ethernet", MAC: mac.String(), MTU: 1500, Addresses: []string{addressOf(mac, mustPrefix("20.1.1.0/24")).String()}}},
		}, nil
	case v.TestSigningEnsure.Text:
		changed := !w.signing[vm.ID]
		w.signing[vm.ID] = true
		return guestscripts.RebootResult{Reboot: changed}, nil
	case v.MSIEnsure.Text:
		w.ebpf[vm.ID] = "0.21.1"
		return guestscripts.RebootResult{}, nil
	case v.Restart.Text:
		w.boots[vm.ID]++
		return guestscripts.None{}, nil
	case v.FileProbe.Text:
		return guestscripts.FileProbeResult{}, nil
	}
	if slices.Contains([]string{v.AdapterEnsure.Text, v.PortsEnsure.Text, v.SetupClean.Text}, text) {
		return guestscripts.Changed{}, nil
	}
	return nil, fmt.Errorf("nothing known of this script: %.80s", text)
}
