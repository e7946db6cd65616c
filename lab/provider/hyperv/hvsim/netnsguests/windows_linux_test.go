package netnsguests

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"l4lab/agent/api"
	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

const password = "Cor/ect & <horse> 1"

var administrator = hvsim.Login{User: "Administrator", Password: password}

// unattend is an answer file; value and plain are the password's.
func unattend(value, plain string) []byte {
	var escaped strings.Builder
	if err := escape(&escaped, value); err != nil {
		panic(err)
	}
	return []byte(`<?xml version="1.0" encoding="utf-8"?>
<unattend xmlns="urn:schemas-microsoft-com:unattend">
  <settings pass="specialize"><component name="Microsoft-Windows-Shell-Setup"><ComputerName>BE1</ComputerName></component></settings>
  <settings pass="oobeSystem"><component name="Microsoft-Windows-Shell-Setup">
    <UserAccounts><AdministratorPassword><Value>` + escaped.String() + `</Value><PlainText>` + plain + `</PlainText></AdministratorPassword></UserAccounts>
  </component></settings>
</unattend>`)
}

// win is a Windows machine with the verbs.
type win struct {
	*rig
	m     hvsim.Machine
	verbs guestscripts.Verbs
}

func (r *rig) windows(name, address string) *win {
	m := r.machine(name, topology.Windows, address)
	m.Unattend = unattend(password, "true")
	return &win{r, m, guestscripts.New()}
}

// try runs a verb.
func try[P, R any](w *win, v powershell.Verb[P, R], p P) (R, error) {
	w.t.Helper()
	var r R
	input, err := json.Marshal(p)
	if err != nil {
		w.t.Fatal(err)
	}
	got, err := w.Invoke(w.t.Context(), w.m.ID, administrator, v.Contract(), input)
	if err != nil {
		return r, err
	}
	text, err := json.Marshal(got)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	return r, err
}

// do runs a verb that must not fail.
func do[P, R any](w *win, v powershell.Verb[P, R], p P) R {
	w.t.Helper()
	r, err := try(w, v, p)
	if err != nil {
		w.t.Fatalf("%s on %s: %v", v.Name, w.m.Name, err)
	}
	return r
}

// put copies a file of these bytes to the machine and returns its SHA-256.
func (w *win) put(path string, data []byte) string {
	w.t.Helper()
	from := filepath.Join(w.dir, "upload")
	if err := os.WriteFile(from, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := w.CopyIn(w.t.Context(), w.m.ID, administrator, from, path); err != nil {
		w.t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// prepare does what a Windows machine needs before a service can load programs.
func (w *win) prepare(address string) {
	w.t.Helper()
	do(w, w.verbs.AdapterEnsure, guestscripts.AdapterEnsureParams{MAC: windowsMAC(w.m.MAC.String()), Address: address, PrefixLength: 24, MTU: 1500})
	hash := w.put(`C:\l4lab\ebpf-for-windows.0.21.1.msi`, []byte("a package"))
	do(w, w.verbs.MSIEnsure, guestscripts.MSIEnsureParams{Path: `C:\l4lab\ebpf-for-windows.0.21.1.msi`, SHA256: hash, Product: "eBPF for Windows"})
	for _, file := range []string{"lbagent.exe", "lb.sys", "decap_xdp.sys"} {
		w.put(`C:\l4lab\`+file, []byte("MZ"))
	}
}

func (w *win) service(name string, arguments ...string) {
	w.t.Helper()
	do(w, w.verbs.ServiceEnsure, guestscripts.ServiceEnsureParams{Name: name, Program: `C:\l4lab\lbagent.exe`, Arguments: arguments, Spec: "spec of " + name})
}

// exec runs lbagent.exe and returns what it printed.
func (w *win) exec(stdin string, arguments ...string) guestscripts.ExecResult {
	w.t.Helper()
	return do(w, w.verbs.Exec, guestscripts.ExecParams{
		Program: `C:\l4lab\lbagent.exe`, Arguments: arguments, Stdin: base64.StdEncoding.EncodeToString([]byte(stdin)), Seconds: 20,
	})
}

func plain(text string) string {
	data, _ := base64.StdEncoding.DecodeString(text)
	return string(data)
}

func TestPowerShellDirectLetsInWhomTheAnswerFileNames(t *testing.T) {
	r := newRig(t, "tga", nil)
	r.lan()
	w := r.windows("be1", "20.1.1.10")
	if _, err := try(w, w.verbs.Facts, guestscripts.None{}); !errors.Is(err, hvsim.ErrGuestNotReady) {
		t.Errorf("a machine that was never on: %v", err)
	}
	without := w.m
	without.ID, without.Name, without.Unattend, without.MAC = "bare", "bare", nil, append(without.MAC[:5:5], 99)
	without.Dir = filepath.Join(r.dir, "disks", "bare") // or it finds what be1 has set up
	if err := r.Start(t.Context(), without); err != nil {
		t.Fatal(err)
	}
	r.start(w.m)
	r.await("in set-up", func() bool { return r.State("bare").Heartbeat == heartbeatUnknown })
	bare := &win{r, without, w.verbs}
	if _, err := try(bare, w.verbs.Facts, guestscripts.None{}); !errors.Is(err, hvsim.ErrGuestNotReady) {
		t.Errorf("a generalised image without answers: %v", err)
	}
	for _, c := range []struct {
		name  string
		login hvsim.Login
		want  error
	}{
		{"the right password", administrator, nil},
		{"the name with the machine's in front", hvsim.Login{User: `BE1\administrator`, Password: password}, nil},
		{"a wrong password", hvsim.Login{User: "Administrator", Password: password + "x"}, hvsim.ErrGuestAuth},
		{"another user", hvsim.Login{User: "lab", Password: password}, hvsim.ErrGuestAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := r.Invoke(t.Context(), "be1", c.login, w.verbs.Facts.Contract(), json.RawMessage("{}")); !errors.Is(err, c.want) {
				t.Errorf("got %v, expected %v", err, c.want)
			}
		})
	}
	facts := do(w, w.verbs.Facts, guestscripts.None{})
	if facts.Computer != "BE1" || !strings.Contains(facts.OS, "SIMULATED") || len(facts.Adapters) != 1 || facts.Adapters[0].MAC != "00-15-5D-01-01-0A" {
		t.Errorf("facts: %+v", facts)
	}
	if text, err := os.ReadFile(filepath.Join(w.m.Dir, registryFile)); err != nil || strings.Contains(string(text), password) {
		t.Errorf("the registry holds the password (%v)", err)
	}
	if c := do(w, w.verbs.SetupClean, guestscripts.None{}); !c.Changed {
		t.Error("the answer file was not there to be removed")
	}
}

func TestPasswordsOfAnswerFiles(t *testing.T) {
	var units []byte
	for _, u := range utf16.Encode([]rune(password + "AdministratorPassword")) {
		units = append(units, byte(u), byte(u>>8))
	}
	for _, c := range []struct{ name, value, plain string }{
		{"plain text", password, "true"},
		{"base64 of UTF-16 with the element's name", base64.StdEncoding.EncodeToString(units), "false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := parseAnswers(unattend(c.value, c.plain))
			if err != nil || a.users["Administrator"] != password || a.computer != "BE1" {
				t.Errorf("got %q %q %v", a.users["Administrator"], a.computer, err)
			}
		})
	}
	account := `<u><LocalAccounts><LocalAccount><Password><Value>p</Value><PlainText>true</PlainText></Password><Name>lab</Name></LocalAccount></LocalAccounts></u>`
	if a, err := parseAnswers([]byte(account)); err != nil || a.users["lab"] != "p" {
		t.Errorf("a local account: %v %v", a.users, err)
	}
	if _, err := parseAnswers(unattend("bm9wZQ==", "false")); err == nil {
		t.Error("a base64 form without its suffix was taken")
	}
}

func TestAWindowsMachineRunsServicesAndKeepsThemOverARestart(t *testing.T) {
	r := newRig(t, "tgw", nil)
	r.lan()
	w := r.windows("be1", "20.1.1.10")
	r.start(w.m)
	do(w, w.verbs.AdapterEnsure, guestscripts.AdapterEnsureParams{MAC: "00-15-5D-01-01-0A", Address: "20.1.1.10", PrefixLength: 24, MTU: 1500})
	w.put(`C:\l4lab\lbagent.exe`, []byte("MZ"))
	if got := w.exec("", "decap", "attach", "--interface", "Ethernet", "--image", `C:\l4lab\decap_xdp.sys`); got.ExitCode == 0 || !strings.Contains(plain(got.Stderr), "eBPF for Windows is not installed") {
		t.Errorf("without eBPF for Windows: %d %s", got.ExitCode, plain(got.Stderr))
	}
	w.prepare("20.1.1.10")
	if got := w.exec("", "decap", "attach", "--image", `C:\l4lab\other.sys`); got.ExitCode == 0 || !strings.Contains(plain(got.Stderr), "cannot find the file") {
		t.Errorf("without its image: %d %s", got.ExitCode, plain(got.Stderr))
	}
	do(w, w.verbs.VIPsEnsure, guestscripts.VIPsEnsureParams{Addresses: []string{"40.1.1.1"}, MAC: "00-15-5D-01-01-0A", Loopback: "builtin"})
	w.service("l4lab-web", "web", "--name", "be1", "--address", "20.1.1.10", "--os", "windows", "--tcp", ":80")
	w.service("l4lab-decap", "decap", "attach", "--interface", "Ethernet", "--address", "20.1.1.10", "--balancer", "20.1.1.1", "--hook", "xdp", "--image", `C:\l4lab\decap_xdp.sys`, "--pin-dir", "decap")
	attached := func() bool {
		var status api.DecapStatus
		out := w.exec("", "decap", "status", "--pin-dir", "decap", "-o", "json")
		return json.Unmarshal([]byte(plain(out.Stdout)), &status) == nil && status.Attached && status.Hook == "xdp"
	}
	r.await("decapsulation attached", attached)
	r.await("a page", func() bool { return strings.Contains(r.get("http://20.1.1.10/whoami"), `"be1"`) })
	if _, err := try(w, w.verbs.FileRemove, guestscripts.FileParams{Path: `c:\L4LAB\LBAgent.exe`}); !errors.Is(err, &powershell.ScriptError{Code: guestscripts.InUse}) {
		t.Errorf("a program that runs was removed: %v", err)
	}
	if signing := do(w, w.verbs.TestSigningEnsure, guestscripts.None{}); !signing.Reboot {
		t.Error("test signing without a restart")
	}
	for _, changed := range []bool{true, false} {
		if ports := do(w, w.verbs.PortsEnsure, guestscripts.PortsEnsureParams{First: 1025, Count: 31743}); ports.Changed != changed {
			t.Errorf("source ports: %+v; changed %t was expected", ports, changed)
		}
	}
	if _, err := try(w, w.verbs.PortsEnsure, guestscripts.PortsEnsureParams{First: 1024, Count: 31743}); err == nil {
		t.Error("source ports from 1024 on, which Windows refuses, were taken")
	}
	before := do(w, w.verbs.Facts, guestscripts.None{})
	do(w, w.verbs.Restart, guestscripts.None{})
	r.await("gone down", func() bool { return r.State("be1").Heartbeat != heartbeatHealthy })
	r.awaitHealthy("be1")
	after := do(w, w.verbs.Facts, guestscripts.None{})
	if after.BootTime == before.BootTime || !after.TestSigning || before.TestSigning || after.EBPF != "0.21.1" || len(after.VIPs) != 1 ||
		len(after.Adapters) != 1 || len(after.Adapters[0].Addresses) != 1 || !after.Adapters[0].WeakHost ||
		after.DynamicPortFirst != 1025 || after.DynamicPortCount != 31743 {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	r.await("decapsulation attached again", attached)
	r.await("the page again", func() bool { return strings.Contains(r.get("http://20.1.1.10/whoami"), `"be1"`) })
	log := do(w, w.verbs.FileRead, guestscripts.FileReadParams{Path: `C:\ProgramData\lbagent\lbagent-web.log`, Bytes: 1 << 16})
	if !strings.Contains(plain(log.Data), "whoami") {
		t.Errorf("the page's log: %q", plain(log.Data))
	}
	do(w, w.verbs.ServiceRemove, guestscripts.ServiceRemoveParams{Name: "l4lab-web"})
	if left := do(w, w.verbs.Facts, guestscripts.None{}); len(left.Services) != 1 || r.get("http://20.1.1.10/whoami") != "" {
		t.Errorf("the page is still there: %+v", left.Services)
	}
}

func TestSecureBootRefusesTestSigning(t *testing.T) {
	r := newRig(t, "tgs", nil)
	r.lan()
	w := r.windows("be1", "20.1.1.10")
	w.m.SecureBoot = true
	r.start(w.m)
	if _, err := try(w, w.verbs.TestSigningEnsure, guestscripts.None{}); err == nil || !strings.Contains(err.Error(), "Secure Boot") {
		t.Errorf("got %v", err)
	}
}

func TestCheckpointsKeepADisk(t *testing.T) {
	r := newRig(t, "tgc", nil)
	r.lan()
	w := r.windows("be1", "20.1.1.10")
	l := r.linux("be3", "20.1.1.30", "")
	if err := r.Save(t.Context(), "be1", "empty"); err != nil {
		t.Fatal(err)
	}
	r.start(w.m, l)
	w.put(`C:\l4lab\before`, []byte("x"))
	r.sh("20.1.1.30", "echo before > /etc/before; rm /etc/hosts")
	for _, id := range []string{"be1", "be3"} {
		if err := r.Stop(t.Context(), id, true); err != nil {
			t.Fatal(err)
		}
		if err := r.Save(t.Context(), id, "ready"); err != nil {
			t.Fatal(err)
		}
	}
	r.start(w.m, l)
	w.put(`C:\l4lab\after`, []byte("x"))
	r.sh("20.1.1.30", "echo after > /etc/after")
	for _, id := range []string{"be1", "be3"} {
		if err := r.Restore(t.Context(), id, "ready"); err == nil {
			t.Error("a machine that is on was restored")
		}
		if err := r.Stop(t.Context(), id, false); err != nil {
			t.Fatal(err)
		}
		if err := r.Restore(t.Context(), id, "ready"); err != nil {
			t.Fatal(err)
		}
	}
	r.start(w.m, l)
	probe := func(path string) bool { return do(w, w.verbs.FileProbe, guestscripts.FileParams{Path: path}).Exists }
	if !probe(`C:\l4lab\before`) || probe(`C:\l4lab\after`) {
		t.Error("the Windows disk is not the checkpoint's")
	}
	if out := r.sh("20.1.1.30", "cat /etc/before; ls /etc/after /etc/hosts /work /home/* 2>&1 || true"); !strings.HasPrefix(out, "before\n") || strings.Count(out, "cannot access") < 3 {
		t.Errorf("the Linux disk is not the checkpoint's: %s", out)
	}
}
