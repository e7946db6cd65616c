package hvsim

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows/guestscripts"
)

const secret = "p<a>ss&word 1'\""

func credential() scripts.Credential {
	return scripts.Credential{User: "Administrator", Password: secret}
}

// windowsGuest is a Windows machine that is on, whose answer file has the secret.
func (b bench) windowsGuest(node string) scripts.VMFacts {
	b.t.Helper()
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf(node), Parent: windowsImage, Folder: folder})
	answer := "<Value>" + encodedPassword(secret+"AdministratorPassword") + "</Value>"
	must(b, b.v.UnattendWrite, scripts.UnattendWriteParams{Disk: diskOf(node), Content: base64.StdEncoding.EncodeToString([]byte(answer))})
	vm := b.machine(node, windowsImage)
	b.start(vm.ID)
	return vm
}

func invoke[P, R any](b bench, id string, v powershell.Verb[P, R], p P) (R, *scripts.GuestError) {
	b.t.Helper()
	var r R
	input, err := json.Marshal(p)
	if err != nil {
		b.t.Fatal(err)
	}
	got := must(b, b.v.GuestInvoke, scripts.GuestInvokeParams{
		ID: id, Mark: mark, Credential: credential(), Script: base64.StdEncoding.EncodeToString([]byte(v.Text)), Input: input,
	})
	if !got.OK {
		return r, got.Error
	}
	if err := json.Unmarshal(got.Result, &r); err != nil {
		b.t.Fatal(err)
	}
	return r, nil
}

func TestAGuestAnswersByPowerShellDirect(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	vm := b.windowsGuest("be1")
	g := guestscripts.New()
	facts, failed := invoke(b, vm.ID, g.Facts, guestscripts.None{})
	if failed != nil || facts.Computer != "demo-be1" || facts.TestSigning || facts.Adapters[0].MAC != "00-15-5D-01-01-01" || facts.VIPs == nil {
		t.Errorf("got %+v, %+v", facts, failed)
	}
	if r, failed := invoke(b, vm.ID, g.TestSigningEnsure, guestscripts.None{}); failed != nil || !r.Reboot {
		t.Errorf("got %+v, %+v", r, failed)
	}
	for _, changed := range []bool{true, false} {
		if r, failed := invoke(b, vm.ID, g.PortsEnsure, guestscripts.PortsEnsureParams{First: 1025, Count: 31743}); failed != nil || r.Changed != changed {
			t.Errorf("got %+v, %+v; changed %t was expected", r, failed, changed)
		}
	}
	if _, failed := invoke(b, vm.ID, g.Restart, guestscripts.None{}); failed != nil {
		t.Error(failed)
	}
	after, failed := invoke(b, vm.ID, g.Facts, guestscripts.None{})
	if failed != nil || !after.TestSigning || after.BootTime == facts.BootTime || facts.DynamicPortFirst != 49152 || after.DynamicPortFirst != 1025 || after.DynamicPortCount != 31743 {
		t.Errorf("after the restart: %+v, %+v", after, failed)
	}
	write := guestscripts.FileWriteParams{Path: `C:\l4lab\x.json`, Data: "e30="}
	if r, failed := invoke(b, vm.ID, g.FileWrite, write); failed != nil || !r.Changed {
		t.Errorf("got %+v, %+v", r, failed)
	}
	if r, failed := invoke(b, vm.ID, g.FileRead, guestscripts.FileReadParams{Path: `c:\L4LAB\x.json`, Offset: 1, Bytes: 5}); failed != nil || r.Data != "fQ==" || r.Bytes != 2 {
		t.Errorf("got %+v, %+v", r, failed)
	}
	if r, failed := invoke(b, vm.ID, g.FileProbe, guestscripts.FileParams{Path: `C:\l4lab\x.json`}); failed != nil || r.SHA256 != sum([]byte("{}")) {
		t.Errorf("got %+v, %+v", r, failed)
	}
	if _, failed := invoke(b, vm.ID, g.FileRemove, guestscripts.FileParams{Path: `C:\l4lab\x.json`}); failed != nil {
		t.Error(failed)
	}
	if _, failed := invoke(b, vm.ID, g.FileRead, guestscripts.FileReadParams{Path: `C:\l4lab\x.json`, Offset: 0, Bytes: 5}); failed == nil || failed.Code != "notFound" {
		t.Errorf("got %+v", failed)
	}
	if _, failed := invoke(b, vm.ID, g.ServiceRemove, guestscripts.ServiceRemoveParams{Name: "x"}); failed == nil || failed.Code != "notSimulated" {
		t.Errorf("got %+v", failed)
	}
}

func TestAGuestThatCannotAnswerSaysWhy(t *testing.T) {
	b := newBench(t, Options{BootTime: time.Hour})
	b.lay()
	facts := base64.StdEncoding.EncodeToString([]byte(guestscripts.New().Facts.Text))
	ask := func(id string) scripts.GuestInvokeParams {
		return scripts.GuestInvokeParams{ID: id, Mark: mark, Credential: credential(), Script: facts, Input: json.RawMessage("{}")}
	}
	linux := b.machine("lb", linuxImage, mac("00155D010102"))
	refuse(b, b.v.GuestInvoke, ask(linux.ID), "guestNotReady", "running state")
	b.start(linux.ID)
	refuse(b, b.v.GuestInvoke, ask(linux.ID), "guestNotReady", "PowerShell Direct")
	booting := b.windowsGuest("be1")
	refuse(b, b.v.GuestInvoke, ask(booting.ID), "guestNotReady")
	refuse(b, b.v.GuestInvoke, ask("nobody"), "notFound")
	p := ask(booting.ID)
	p.Mark = others
	refuse(b, b.v.GuestInvoke, p, "foreign")
	p = ask(booting.ID)
	p.Script = "%"
	refuse(b, b.v.GuestInvoke, p, "FormatException")
}

func TestAGuestRefusesWrongCredentialsScriptsAndParameters(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	vm := b.windowsGuest("be1")
	text := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	p := scripts.GuestInvokeParams{ID: vm.ID, Mark: mark, Credential: scripts.Credential{User: "Administrator", Password: "wrong"}, Script: text(guestscripts.New().Facts.Text), Input: json.RawMessage("{}")}
	refuse(b, b.v.GuestInvoke, p, "guestAuth")
	p.Credential = credential()
	p.Input = json.RawMessage(`{"extra":1}`)
	if r := must(b, b.v.GuestInvoke, p); r.OK || r.Error.Code != "NamedParameterNotFound" {
		t.Errorf("an unknown parameter: %+v", r.Error)
	}
	p.Script, p.Input = text("Get-Process"), json.RawMessage("{}")
	if r := must(b, b.v.GuestInvoke, p); r.OK || r.Error.Code != "unknownScript" {
		t.Errorf("an unknown script: %+v", r.Error)
	}
}

func TestFilesAreCopiedIntoGuestsAndOutOfThem(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	vm := b.windowsGuest("be1")
	content := noise(100_000)
	b.upload(folder+`\bin\decap.sys`, content)
	push := scripts.GuestCopyParams{ID: vm.ID, Mark: mark, Credential: credential(), HostPath: folder + `\bin\decap.sys`, GuestPath: `C:\l4lab\decap.sys`, SHA256: sum(content)}
	if r := must(b, b.v.GuestPush, push); !r.Changed {
		t.Error("nothing was pushed")
	}
	if r := must(b, b.v.GuestPush, push); r.Changed {
		t.Error("it was pushed twice")
	}
	pull := push
	pull.HostPath, pull.SHA256 = folder+`\captures\back`, ""
	if r := must(b, b.v.GuestPull, pull); !r.Changed || string(b.download(pull.HostPath)) != string(content) {
		t.Errorf("pulled %+v", r)
	}
	if r := must(b, b.v.GuestPull, pull); r.Changed {
		t.Error("it was pulled twice")
	}
	wrong := push
	wrong.SHA256 = sum(nil)
	refuse(b, b.v.GuestPush, wrong, "hashMismatch")
	wrong = push
	wrong.HostPath = folder + `\bin\none`
	refuse(b, b.v.GuestPush, wrong, "notFound")
	wrong = pull
	wrong.GuestPath = `C:\none`
	refuse(b, b.v.GuestPull, wrong, "notFound")
	wrong = push
	wrong.Credential.Password = "wrong"
	refuse(b, b.v.GuestPush, wrong, "guestAuth")
	refuse(b, b.v.GuestPull, wrong, "guestAuth")
}

func TestNeitherTheLogNorTheMemoryOfAHostHoldsAGuestsPassword(t *testing.T) {
	var log strings.Builder
	b := newBench(t, Options{Log: textLog(&log)})
	b.lay()
	vm := b.windowsGuest("be1")
	p := scripts.GuestInvokeParams{ID: vm.ID, Mark: mark, Credential: scripts.Credential{User: "u", Password: "canary-7f3a"}, Script: "", Input: json.RawMessage("{}")}
	_, err := b.v.GuestInvoke.Run(t.Context(), b.r, p)
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	memory, err := os.ReadFile(b.h.store.path)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"log": log.String(), "memory": string(memory)} {
		if text == "" || strings.Contains(text, "canary") || strings.Contains(text, b.h.Endpoint().Password) {
			t.Errorf("the %s holds a password, or nothing: %s", what, text)
		}
	}
}

func TestMachinesAreStoppedSideBySideAndShowAsStopping(t *testing.T) {
	g := &recorder{Guests: newNoNetwork(0, func(string) string { return t.TempDir() })}
	inside, goOn := make(chan string), make(chan struct{})
	g.stopping = func(_ context.Context, id string, _ bool) { inside <- id; <-goOn }
	b := newBench(t, Options{Guests: g})
	b.lay()
	first, second := b.machine("lb", linuxImage), b.machine("be1", linuxImage, mac("00155D010102"))
	b.start(first.ID)
	b.start(second.ID)
	done := make(chan error, 2)
	for _, id := range []string{first.ID, second.ID} {
		go func() {
			_, err := b.v.VMStop.Run(t.Context(), b.r, scripts.VMStopParams{ID: id, Mark: mark, Seconds: 60})
			done <- err
		}()
	}
	ids := []string{<-inside, <-inside}
	if ids[0] == ids[1] {
		t.Errorf("one machine was stopped twice: %v", ids)
	}
	for _, m := range b.observe().Machines {
		if m.State != "Stopping" {
			t.Errorf("%s is %s", m.Name, m.State)
		}
	}
	close(goOn)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if states := b.observe().Machines; slices.ContainsFunc(states, func(m scripts.VMFacts) bool { return m.State != "Off" }) {
		t.Errorf("got %+v", states)
	}
}
