package hvsim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"l4lab/lab/powershell"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows/guestscripts"
)

// overWire is a bench whose verbs go over HTTPS and NTLM.
func overWire(t *testing.T, o Options) bench {
	t.Helper()
	h := startHost(t, o)
	return bench{t, h, connect(t, h), scripts.New()}
}

func endpointOf(h *Host) powershell.Endpoint {
	e := h.Endpoint()
	return powershell.Endpoint{Host: e.Host, Port: e.Port, Fingerprint: e.Fingerprint, User: e.User, Password: powershell.Password(e.Password), Timeout: 5 * time.Second}
}

func connect(t *testing.T, h *Host) powershell.Runner {
	t.Helper()
	r, err := powershell.Connect(t.Context(), endpointOf(h))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// counter notes which scripts went through a Runner.
type counter struct {
	powershell.Runner
	ran map[string]bool
}

func (c counter) Run(ctx context.Context, call powershell.Call) error {
	c.ran[call.Script.Name] = true
	return c.Runner.Run(ctx, call)
}

func TestEveryVerbOverHTTPSAndNTLM(t *testing.T) {
	b := overWire(t, Options{Program: program(t, "cat; echo done")})
	ran := map[string]bool{}
	b.r = counter{b.r, ran}
	if r := must(b, b.v.HostCheck, scripts.HostCheckParams{Folder: folder, Names: []string{lan}, Mark: mark}); !r.Simulated {
		t.Errorf("got %+v", r)
	}
	b.lay()
	must(b, b.v.HostRoutesEnsure, scripts.HostRoutesEnsureParams{Switch: lan, Mark: mark, Routes: []scripts.HostRoute{{Destination: "40.1.1.1/32", Via: "20.1.1.1"}}})
	must(b, b.v.ImageProbe, scripts.ImageProbeParams{Path: linuxImage, Hash: true})
	vm := b.windowsGuest("be1")
	must(b, b.v.VMState, scripts.VMParams{ID: vm.ID, Mark: mark})
	must(b, b.v.SeedEject, scripts.VMParams{ID: vm.ID, Mark: mark})
	if facts, failed := invoke(b, vm.ID, guestscripts.New().Facts, guestscripts.None{}); failed != nil || facts.Computer != "demo-be1" {
		t.Errorf("got %+v, %+v", facts, failed)
	}
	checkpoint := scripts.CheckpointParams{ID: vm.ID, Mark: mark, Name: "setup"}
	must(b, b.v.CheckpointCreate, checkpoint)
	must(b, b.v.CaptureStart, scripts.CaptureStartParams{Mark: mark, Switch: lan, IDs: []string{vm.ID}, Host: true, Folder: folder})
	must(b, b.v.CaptureStop, scripts.CaptureStopParams{Mark: mark, Folder: folder})
	b.programOverWire()
	b.filesOverWire(vm.ID)
	must(b, b.v.CheckpointRestore, checkpoint)
	must(b, b.v.CheckpointRemove, checkpoint)
	must(b, b.v.VMStop, scripts.VMStopParams{ID: vm.ID, Mark: mark, Seconds: 1})
	must(b, b.v.PortProxyEnsure, forwardTo(freePort(t), freePort(t)))
	if got := b.observe(); len(got.Machines) != 1 || len(got.PortProxies) != 1 || got.Switch == nil {
		t.Errorf("observed %+v", got)
	}
	must(b, b.v.PortProxyRemove, scripts.PortProxyRemoveParams{Folder: folder})
	must(b, b.v.VMRemove, scripts.VMRemoveParams{Name: "demo-be1", Node: "be1", Mark: mark, Folder: folder})
	must(b, b.v.SwitchRemove, scripts.SwitchRemoveParams{Name: lan, Mark: mark})
	must(b, b.v.FilesRemove, scripts.FilesRemoveParams{Folder: folder, Mark: mark, Paths: nil})
	if got := b.observe(); len(got.Machines) != 0 || len(got.PortProxies) != 0 || got.Switch != nil {
		t.Errorf("left: %+v", got)
	}
	contracts, err := b.v.Contracts()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range contracts {
		if !ran[c.Name] {
			t.Errorf("verb %s was not tried", c.Name)
		}
	}
}

func (b bench) programOverWire() {
	b.t.Helper()
	b.upload(agentPath, []byte("MZ"))
	content := noise(300_000)
	p := execParams()
	p.Stdin = true
	var out bytes.Buffer
	err := b.r.Run(b.t.Context(), powershell.Call{Script: b.v.HostExec.Script, Input: p, Stdin: bytes.NewReader(content), Stdout: &out})
	if err != nil || !bytes.Equal(out.Bytes(), append(content, "done\n"...)) {
		b.t.Errorf("the program gave back %d bytes of %d, %v", out.Len(), len(content)+5, err)
	}
}

func (b bench) filesOverWire(id string) {
	b.t.Helper()
	content := noise(500_000)
	path := folder + `\bin\decap.sys`
	if err := transfer.Upload(b.t.Context(), b.r, b.v.Verbs, bytes.NewReader(content), path, nil); err != nil {
		b.t.Fatal(err)
	}
	copies := scripts.GuestCopyParams{ID: id, Mark: mark, Credential: credential(), HostPath: path, GuestPath: `C:\l4lab\decap.sys`, SHA256: sum(content)}
	must(b, b.v.GuestPush, copies)
	copies.HostPath = folder + `\captures\decap.sys`
	must(b, b.v.GuestPull, copies)
	var out bytes.Buffer
	if err := transfer.Download(b.t.Context(), b.r, b.v.Verbs, copies.HostPath, &out, nil); err != nil || !bytes.Equal(out.Bytes(), content) {
		b.t.Errorf("%d bytes came back of %d, %v", out.Len(), len(content), err)
	}
}

func TestHostileNamesAreDataOverTheWire(t *testing.T) {
	b := overWire(t, Options{})
	b.upload(folder+`\l4lab.mark`, []byte(mark))
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("lb"), Parent: linuxImage, Folder: folder})
	for name, hostile := range hostileNames() {
		t.Run(name, func(t *testing.T) { hostileRound(bench{t, b.h, b.r, b.v}, hostile) })
	}
}

func TestErrorsOfScriptsKeepTheirCodeMessageAndTarget(t *testing.T) {
	b := overWire(t, Options{})
	if _, err := b.h.PlaceSwitch(t.Context(), lan, "by hand"); err != nil {
		t.Fatal(err)
	}
	_, err := b.v.SwitchEnsure.Run(t.Context(), b.r, scripts.SwitchEnsureParams{Name: lan, Mark: mark})
	var failed *powershell.ScriptError
	if !errors.As(err, &failed) || failed.Code != scripts.Foreign || failed.Target != lan || failed.Script != "switch-ensure" {
		t.Errorf("got %v", err)
	}
	err = b.r.Run(t.Context(), powershell.Call{Script: powershell.Script{Name: "x", Text: "Get-Process"}, Input: json.RawMessage("{}")})
	if !errors.Is(err, &powershell.ScriptError{Code: "unknownScript"}) {
		t.Errorf("got %v", err)
	}
}

func TestWrongCredentialsAndCertificatesAreRefused(t *testing.T) {
	h := startHost(t, Options{})
	for name, c := range map[string]struct {
		change func(*powershell.Endpoint)
		want   error
	}{
		"a wrong password":    {func(e *powershell.Endpoint) { e.Password = "wrong" }, powershell.ErrAuth},
		"an unknown user":     {func(e *powershell.Endpoint) { e.User = "nobody" }, powershell.ErrAuth},
		"another certificate": {func(e *powershell.Endpoint) { e.Fingerprint = sum(nil) }, powershell.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			e := endpointOf(h)
			c.change(&e)
			r, err := powershell.Connect(t.Context(), e)
			if err == nil {
				err = r.Run(t.Context(), powershell.Call{Script: scripts.New().HostCheck.Script, Input: scripts.HostCheckParams{Folder: folder, Mark: mark}})
				_ = r.Close(t.Context())
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestEveryFaultOfTheWireIsTriedAgainOrNamed(t *testing.T) {
	for kind := range wireFaults() {
		t.Run(string(kind), func(t *testing.T) {
			// What a verb that is repeatable meets on its way is a fault at one
			// request after another, until none is left.
			for request := 1; request <= 6; request++ {
				b := bench{t, startHost(t, Options{Faults: []Fault{{Kind: kind, Request: request, Delay: 10 * time.Millisecond}}}), nil, scripts.New()}
				r, err := powershell.Connect(t.Context(), endpointOf(b.h))
				if err == nil {
					b.r = r
					_, err = b.v.SwitchEnsure.Run(t.Context(), r, scripts.SwitchEnsureParams{Name: lan, Mark: mark})
					_ = r.Close(context.Background())
				}
				known := err == nil
				for _, want := range []error{powershell.ErrAuth, powershell.ErrUnreachable, powershell.ErrQuota, powershell.ErrTimeout, powershell.ErrProtocol} {
					known = known || errors.Is(err, want)
				}
				if !known {
					t.Errorf("at request %d: %v", request, err)
				}
				// However it ended, the switch is there once or not at all.
				b.r = direct{b.h}
				if got := must(b, b.v.SwitchEnsure, scripts.SwitchEnsureParams{Name: lan, Mark: mark}); got.Switch.Name != lan || len(b.h.store.Switches) != 1 {
					t.Errorf("at request %d: %d switches", request, len(b.h.store.Switches))
				}
			}
		})
	}
}

func TestTheServersLimitsAndUsersAreTheHosts(t *testing.T) {
	h := startHost(t, Options{Users: []Login{{"first", "p1"}, {`second`, "p2"}}, Limits: wsman.Limits{ShellsPerUser: 1}, Latency: time.Millisecond})
	for _, u := range []struct{ user, password string }{{"first", "p1"}, {"second", "p2"}} {
		e := endpointOf(h)
		e.User, e.Password = u.user, powershell.Password(u.password)
		r, err := powershell.Connect(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := scripts.New().HostCheck.Run(t.Context(), r, scripts.HostCheckParams{Folder: folder, Mark: mark}); err != nil {
			t.Errorf("%s: %v", u.user, err)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
