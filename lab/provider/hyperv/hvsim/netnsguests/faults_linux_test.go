package netnsguests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/lab/capture"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/role/windows/guestscripts"
)

func TestFaultsOnRequest(t *testing.T) {
	r := newRig(t, "tgq", func(machine string) Faults {
		switch machine {
		case "lab-never":
			return Faults{NeverBoots: true}
		case "lab-hangs":
			return Faults{RebootHangs: true}
		case "lab-full":
			return Faults{DiskBytes: 4 << 20}
		}
		return Faults{}
	})
	r.lan()
	never, hangs, full := r.linux("never", "20.1.1.30", ""), r.windows("hangs", "20.1.1.10"), r.linux("full", "20.1.1.40", "")
	if err := r.Start(t.Context(), never); err != nil {
		t.Fatal(err)
	}
	r.start(hangs.m, full)
	t.Run("a machine that never boots is on and silent, and can be turned off", func(t *testing.T) {
		if s := r.State("never"); s != (hvsim.GuestState{Running: true, Heartbeat: heartbeatNoContact}) {
			t.Errorf("it is %+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := r.Stop(ctx, "never", true); err == nil {
			t.Error("it shut itself down")
		}
		if err := r.Stop(t.Context(), "never", false); err != nil || r.State("never").Running {
			t.Errorf("turned off: %v, running %v", err, r.State("never").Running)
		}
	})
	t.Run("a restart that hangs ends when the machine is turned off and on", func(t *testing.T) {
		do(hangs, hangs.verbs.Restart, guestscripts.None{})
		r.await("silent", func() bool { return r.State("hangs").Heartbeat == heartbeatNoContact })
		if _, err := try(hangs, hangs.verbs.Facts, guestscripts.None{}); !errors.Is(err, hvsim.ErrGuestNotReady) {
			t.Errorf("it answers: %v", err)
		}
		if err := r.Stop(t.Context(), "hangs", false); err != nil {
			t.Fatal(err)
		}
		r.start(hangs.m)
	})
	t.Run("a small disk is full", func(t *testing.T) {
		out, err := r.trySh("20.1.1.40", "cat > /usr/local/bin/big", bytes.Repeat([]byte("x"), 8<<20))
		if err == nil || !strings.Contains(out, "No space left") {
			t.Errorf("8 MiB fit on 4: %v %s", err, out)
		}
	})
}

func TestFramesWithForeignAddressesAreDroppedUnlessSpoofingIsOn(t *testing.T) {
	r := newRig(t, "tgx", nil)
	r.lan()
	honest, liar := r.linux("be3", "20.1.1.30", ""), r.linux("be4", "20.1.1.40", "")
	honest.Spoofing = false
	r.start(honest, liar)
	foreign := net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	for _, c := range []struct {
		m     hvsim.Machine
		heard bool
	}{{honest, false}, {liar, true}} {
		session, err := r.startCapture("switch1", hostPort)
		if err != nil {
			t.Fatal(err)
		}
		r.broadcast(c.m, foreign)
		r.broadcast(c.m, c.m.MAC)
		from := func(frames []capture.Frame, mac net.HardwareAddr) bool {
			for _, f := range frames {
				if bytes.Equal(f.Data[6:12], mac) && f.Data[12] == 0x88 {
					return true
				}
			}
			return false
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err = session.Wait(ctx, func(frames []capture.Frame) bool { return from(frames, c.m.MAC) })
		cancel()
		if err != nil {
			t.Fatalf("the machine's own frame: %v", err)
		}
		if heard := from(session.Frames(), foreign); heard != c.heard {
			t.Errorf("spoofing %v: the foreign frame was heard: %v", c.m.Spoofing, heard)
		}
		if _, err := session.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// broadcast sends a frame of an experimental kind (IEEE 802, 0x88b5) from a machine.
func (r *rig) broadcast(m hvsim.Machine, from net.HardwareAddr) {
	r.t.Helper()
	frame := append(append(bytes.Repeat([]byte{0xff}, 6), from...), 0x88, 0xb5)
	frame = append(frame, make([]byte, 46)...)
	err := r.lookup(m.ID).inNamespace(func(fabric.Namespace) error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		eth, err := net.InterfaceByName(fabric.InterfaceName)
		if err != nil {
			return err
		}
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: eth.Index, Halen: 6})
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestMachinesReachEachOtherAndTheHostRunsItsStandIn(t *testing.T) {
	r := newRig(t, "tgm", nil)
	r.lan()
	r.start(r.linux("be3", "20.1.1.30", ""), r.linux("be4", "20.1.1.40", ""))
	if out := r.sh("20.1.1.30", "exec 3<>/dev/tcp/20.1.1.40/22 && head -c 7 <&3"); out != "SSH-2.0" {
		t.Errorf("be3 gets %q from be4's port 22", out)
	}
	program := filepath.Join(r.dir, "LBAgent.exe")
	if err := os.WriteFile(program, []byte("MZ"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, words bytes.Buffer
	code, err := r.HostExec(t.Context(), program, []string{"version", "-o", "json"}, nil, &out, &words)
	if err != nil || code != 0 || !json.Valid(out.Bytes()) {
		t.Errorf("lbagent.exe on the host: %d %v %s %s", code, err, out.String(), words.String())
	}
	if code, err = r.HostExec(t.Context(), program, []string{"no-such-command"}, nil, &out, &words); err != nil || code == 0 {
		t.Errorf("a wrong command: %d %v", code, err)
	}
	elf := filepath.Join(r.dir, "elf", "lbagent.exe")
	if err := errors.Join(os.Mkdir(filepath.Dir(elf), 0o700), copyFile(r.options.Program, elf)); err != nil {
		t.Fatal(err)
	}
	for _, refused := range []string{"/bin/true", elf, filepath.Join(r.dir, "missing", "lbagent.exe")} {
		if _, err := r.HostExec(t.Context(), refused, nil, nil, &out, &words); err == nil {
			t.Errorf("the host ran %s", refused)
		}
	}
}

// victimWord has the test's own program be a simulated host that is to be killed.
const victimWord = "netnsguests-victim"

// victim starts a machine in a folder and stays.
func victim(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	g, err := New(context.Background(), Options{Name: "tgk", Dir: filepath.Join(dir, "g"), Self: []string{self, guestWord}})
	if err != nil {
		return err
	}
	if _, err := g.EnsureSwitch(context.Background(), "lan"); err != nil {
		return err
	}
	m := hvsim.Machine{
		ID: "be1", Name: "lab-be1", OS: "windows", Switch: "lan", Dir: filepath.Join(dir, "disks/be1"),
		MAC: net.HardwareAddr{0, 0x15, 0x5d, 1, 1, 1}, Unattend: unattend(password, "true"),
	}
	if err := g.Start(context.Background(), m); err != nil {
		return err
	}
	for g.State("be1").Heartbeat != heartbeatHealthy {
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Println("ready")
	select {}
}

func TestAKilledHostsGuestsAreGoneWithTheNextOne(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and mounts")
	}
	dir, err := os.MkdirTemp("", "hv-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, victimWord, dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	word := make([]byte, 5)
	if _, err := out.Read(word); err != nil || string(word) != "ready" {
		t.Fatalf("the host to be killed says %q (%v)", word, err)
	}
	options := Options{Name: "tgk", Dir: filepath.Join(dir, "g"), Self: []string{self, guestWord}}
	if _, err := New(t.Context(), options); err == nil || !strings.Contains(err.Error(), "another simulated host") {
		t.Errorf("two hosts in one folder: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	foreign := &Guests{options: options}
	names, err := fabric.Names(foreign.prefix())
	if err != nil || len(names) != 3 {
		t.Fatalf("the killed host left %v (%v), expected host, switch and machine", names, err)
	}
	g, err := New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Guests: g, t: t, dir: dir}
	if names, err := fabric.Names(g.prefix()); err != nil || len(names) != 1 {
		t.Errorf("the next host has %v (%v), expected its own network alone", names, err)
	}
	if left := r.processes(); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if err := g.Close(t.Context()); err != nil {
		t.Error(err)
	}
	r.nothingLeft()
}
