package hvsim

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

// again closes a host and starts it once more.
func (b bench) again(o Options) bench {
	b.t.Helper()
	o.Dir = b.h.o.Dir
	if err := b.h.Close(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	return newBench(b.t, o)
}

func TestAHostComesBackWithAllButWhatRanAndItsRoutes(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	must(b, b.v.HostRoutesEnsure, scripts.HostRoutesEnsureParams{Switch: lan, Mark: mark, Routes: []scripts.HostRoute{{Destination: "40.1.1.1/32", Via: "20.1.1.1"}}})
	vm := b.machine("lb", linuxImage)
	b.start(vm.ID)
	setup := scripts.CheckpointParams{ID: vm.ID, Mark: mark, Name: "setup"}
	must(b, b.v.CheckpointCreate, setup)
	file := filepath.Join(b.h.diskDir(vm.ID), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := forwardTo(freePort(t), echoServer(t))
	must(b, b.v.PortProxyEnsure, p)
	before, was := b.observe(), b.h.Endpoint()

	b = b.again(Options{})
	after, is := b.observe(), b.h.Endpoint()
	if is.Fingerprint != was.Fingerprint || is.Password != was.Password || is.Port != was.Port || is.SSH != was.SSH {
		t.Errorf("it is known by something else: %+v, was %+v", is, was)
	}
	if after.Switch.ID != before.Switch.ID || after.Switch.MAC != before.Switch.MAC || !slices.Equal(after.Switch.Addresses, before.Switch.Addresses) {
		t.Errorf("the switch is %+v, was %+v", after.Switch, before.Switch)
	}
	if len(after.Switch.Routes) != 0 {
		t.Errorf("routes of the active store are still there: %v", after.Switch.Routes)
	}
	m := after.Machines[0]
	if m.ID != vm.ID || m.State != "Off" || !slices.Equal(m.Checkpoints, []string{"setup"}) || m.Disks[0] != before.Machines[0].Disks[0] {
		t.Errorf("the machine is %+v", m)
	}
	c, err := dialPort(p.ListenPort)
	if err != nil {
		t.Fatalf("the port proxy is gone: %v", err)
	}
	defer c.Close()
	if got, err := askEcho(c, "hello"); got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	// A checkpoint that was made before the restart brings the disk back after it.
	must(b, b.v.CheckpointRestore, setup)
	if _, err := os.Stat(file); err == nil {
		t.Error("the disk was not brought back")
	}
	b.start(vm.ID)
}

func TestAHostOfAnotherVersionIsNotTouched(t *testing.T) {
	for name, text := range map[string]string{"of another version": `{"version":2}`, "broken": `{"version":`} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "host.json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Start(t.Context(), Options{Dir: dir})
			if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "new host") {
				t.Errorf("got %v", err)
			}
			if kept, err := os.ReadFile(filepath.Join(dir, "host.json")); err != nil || string(kept) != text {
				t.Errorf("the file is %q, %v", kept, err)
			}
		})
	}
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"no folder":                     {Options{}, "needs a folder"},
		"WinRM for everybody":           {Options{Dir: "x", ListenWinRM: "0.0.0.0:5986"}, "loopback"},
		"SSH for everybody":             {Options{Dir: "x", ListenSSH: "[::]:22"}, "loopback"},
		"a name in place of an address": {Options{Dir: "x", ListenSSH: "localhost:22"}, "loopback"},
		"an address without a port":     {Options{Dir: "x", ListenSSH: "127.0.0.1"}, "address to listen at"},
	} {
		t.Run(name, func(t *testing.T) {
			if h, err := Start(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v", h, err)
			}
		})
	}
}

func TestSecretsLieInFilesForTheirOwnerAlone(t *testing.T) {
	h := startHost(t, Options{Users: []Login{{"lab", "secret"}, {"other", "secret2"}}})
	e := h.Endpoint()
	if text, err := os.ReadFile(e.PasswordFile); string(text) != "secret\n" || e.User != "lab" {
		t.Errorf("got %q for %s, %v", text, e.User, err)
	}
	for _, path := range []string{e.PasswordFile, e.SSH.KeyFile, filepath.Join(h.o.Dir, "winrm.pem"), filepath.Join(h.o.Dir, "ssh_host_ed25519_key"), filepath.Join(h.o.Dir, "host.json")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

func TestAHostWithoutImages(t *testing.T) {
	b := newBench(t, Options{Images: []topology.OS{}})
	if len(b.h.Endpoint().Images) != 0 || must(b, b.v.ImageProbe, scripts.ImageProbeParams{Path: linuxImage, Hash: false}).Exists {
		t.Error("there is an image")
	}
	// An image that labctl uploads is one, too.
	b.upload(linuxImage, []byte(`{"l4labImage":1,"os":"linux"}`))
	b.lay()
	b.start(b.machine("lb", linuxImage).ID)
}
