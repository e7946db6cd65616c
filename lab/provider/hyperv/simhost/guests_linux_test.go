package simhost

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"l4lab/lab/provider/hyperv"
	"l4lab/topology"
)

// place writes a file with what its folder lacks.
func place(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWhatMachinesAreIsAskedForOnceAndKept(t *testing.T) {
	for _, c := range []struct{ name, had, asked, want, fault string }{
		{"a new host without a word has namespaces", "none", "", Namespaces, ""},
		{"a new host has what is asked for", "none", QEMU, QEMU, ""},
		{"a host of before there was a choice has namespaces", "", "", Namespaces, ""},
		{"a host is started again with what it had", `{"guests":"qemu","linuxDisk":"/d"}`, "", QEMU, ""},
		{"a host that has what is asked for", `{"guests":"qemu"}`, QEMU, QEMU, ""},
		{"a host cannot become another", `{"guests":"qemu"}`, Namespaces, "", "has guests qemu: take the lab down"},
		{"a host of before there was a choice cannot either", "", QEMU, "", "has guests netns: take the lab down"},
		{"a file that is damaged", `{"guests":`, "", "", "read what the simulated host's machines are"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), folder)
			switch c.had {
			case "none":
			case "":
				place(t, filepath.Join(dir, "log"), "")
			default:
				place(t, kindFile(dir), c.had)
			}
			k, err := New(Options{Guests: c.asked}).kind(dir)
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) {
					t.Errorf("got %v, %v", k, err)
				}
				return
			}
			if err != nil || k.Guests != c.want {
				t.Errorf("got %v, %v", k, err)
			}
		})
	}
}

func TestTheLinuxDiskIsMadeWhenMachinesAreToBeMadeOfIt(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there.vhdx")
	place(t, there, "")
	for _, c := range []struct {
		name, had  string
		guests     string
		make       bool
		want       string
		wantedDisk bool
	}{
		{"of a new host", "", QEMU, true, "made", true},
		{"of a host whose disk is there", there, QEMU, true, there, false},
		{"of a host whose disk is gone", "/nowhere", QEMU, true, "made", true},
		{"a host that is to be removed needs none", "/nowhere", QEMU, false, "/nowhere", false},
		{"namespaces need none", "", Namespaces, true, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), folder)
			made := false
			s := New(Options{LinuxDisk: func(context.Context) (string, error) { made = true; return "made", nil }})
			k := kind{Guests: c.guests, LinuxDisk: c.had}
			if err := s.prepare(t.Context(), dir, &k, c.make); err != nil {
				t.Fatal(err)
			}
			if made != c.wantedDisk || k.LinuxDisk != c.want {
				t.Errorf("made: %v, the disk is %q", made, k.LinuxDisk)
			}
			if again, err := s.kind(dir); err != nil || again != k {
				t.Errorf("it is remembered as %+v, %v", again, err)
			}
		})
	}
}

func TestWhatVirtualMachinesLackIsSaid(t *testing.T) {
	s := New(Options{LinuxDiskFound: func() (string, error) { return "", errors.New("this machine lacks mtools") }})
	list := s.virtualMachines(kind{Guests: QEMU})
	last := list[len(list)-1]
	if last.OK || !last.Fatal || !strings.Contains(last.Found, "mtools") || last.Remedy == "" {
		t.Errorf("got %+v", last)
	}
	if len(list) != 4 {
		t.Errorf("%d things were looked for: %+v", len(list), list)
	}
}

func TestMachinesThatBootGetTimeAndNoSecureBoot(t *testing.T) {
	target := hyperv.Target{HyperV: topology.FilledHyperV(topology.HyperV{Images: topology.HyperVImages{
		Linux: &topology.HyperVImage{Path: `C:\l.vhdx`}, Windows: &topology.HyperVImage{Path: `C:\w.vhdx`},
	}})}
	New(Options{BootLimit: 3 * time.Minute}).slow(&target)
	if l := target.Limits; l.Heartbeat != 3*time.Minute || l.SSH != 3*time.Minute {
		t.Errorf("the limits are %+v", l)
	}
	if i := target.Images; i.Linux.StartsSigned(topology.Linux) || i.Linux.CPUs != 1 || i.Windows.CPUs != topology.DefaultCPUs {
		t.Errorf("the images are %+v, %+v", *i.Linux, *i.Windows)
	}
}
