package firstboot

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/lab/guest/seed"
)

const networkOfBe3 = `# Written at the first boot, from the seed.
[Match]
MACAddress=52:54:00:01:01:1e
Type=ether

[Link]
MTUBytes=1400

[Network]
DHCP=no
IPv6AcceptRA=no
Address=20.1.1.30/24
`

func TestAFirstBootMakesTheMachineOfTheSeed(t *testing.T) {
	r := newRig(t)
	disc, host := discs(t)
	r.device("vdb", "800", disc(nil))
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "the name", r.name, "be3")
	same(t, "/etc/hostname", r.read("/etc/hostname"), "be3\n")
	same(t, "a file", r.read("/etc/l4lab/note"), "hello\n")
	same(t, "the host key", r.read("/etc/ssh/ssh_host_ed25519_key"), string(host.Private()))
	same(t, "its public half", r.read("/etc/ssh/ssh_host_ed25519_key.pub"), host.Public()+"\n")
	same(t, "the image's host key", r.read("/etc/ssh/ssh_host_rsa_key"), "(none)")
	same(t, "the network", r.read("/etc/systemd/network/10-l4lab-lab.network"), networkOfBe3)
	same(t, "shadow", r.read("/etc/shadow"), "root:*:20000:0:99999:7:::\n")
	same(t, "boot commands", strings.Join(r.ran, ";"), "modprobe cls_bpf")
	if !strings.HasPrefix(r.read("/root/.ssh/authorized_keys"), "ssh-ed25519 ") {
		t.Errorf("root's keys are %s", r.read("/root/.ssh/authorized_keys"))
	}
	if !strings.HasPrefix(r.read(InstanceFile), "l4lab-") {
		t.Errorf("the instance is %s", r.read(InstanceFile))
	}
	for line := range strings.Lines(string(host.Private())) {
		if strings.Contains(r.log.String(), strings.TrimSpace(line)) {
			t.Errorf("the log shows a line of the host key:\n%s", r.log)
		}
	}
	last := strings.TrimSpace(r.log.String())
	if !strings.Contains(last[strings.LastIndexByte(last, '\n')+1:], InstanceFile) {
		t.Errorf("the instance is not the last that is written:\n%s", last)
	}
}

func TestASecondBootRunsBootCommandsAndChangesNothing(t *testing.T) {
	r := newRig(t)
	disc, _ := discs(t)
	r.device("vdb", "800", disc(nil))
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(r.Machine.Root, "/etc/l4lab/note"), []byte("changed since"))
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "a file that was changed since", r.read("/etc/l4lab/note"), "changed since")
	same(t, "boot commands", strings.Join(r.ran, ";"), "modprobe cls_bpf;modprobe cls_bpf")
}

func TestABootWithoutADiscChangesNothingOnceASeedWasApplied(t *testing.T) {
	r := newRig(t)
	disc, _ := discs(t)
	r.device("vdb", "800", disc(nil))
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(r.Devices, "vdb/size")); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(r.Nodes, "vdb"), nil)
	before := r.read(InstanceFile)
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "the instance", r.read(InstanceFile), before)
	if !strings.Contains(r.log.String(), "is gone") {
		t.Errorf("it says nothing of it:\n%s", r.log)
	}
}

func TestAnotherSeedIsAppliedAsAWhole(t *testing.T) {
	r := newRig(t)
	disc, _ := discs(t)
	r.device("vdb", "800", disc(nil))
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := r.read(InstanceFile)
	put(t, filepath.Join(r.Machine.Root, "/etc/systemd/network/10-l4lab-gone.network"), []byte("an earlier seed's"))
	r.device("vdb", "800", disc(func(s *seed.Seed) {
		s.User, s.Hostname, s.Address = "l4lab", "be4", netip.MustParsePrefix("20.1.1.40/24")
	}))
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "the name", r.name, "be4")
	same(t, "the network", r.read("/etc/systemd/network/10-l4lab-lab.network"), strings.ReplaceAll(networkOfBe3, "20.1.1.30", "20.1.1.40"))
	same(t, "the earlier seed's network", r.read("/etc/systemd/network/10-l4lab-gone.network"), "(none)")
	same(t, "what is no seed's", r.read("/etc/systemd/network/x.network"), "another's")
	same(t, "what the user may do", r.read("/etc/sudoers.d/90-l4lab"), "l4lab ALL=(ALL) NOPASSWD:ALL\n")
	if second := r.read(InstanceFile); second == first || second == "(none)" {
		t.Errorf("the instance is %s after %s", second, first)
	}
}

// TestABootThatWasCutOffIsMadeGood ends the boot after each of its lines in turn.
func TestABootThatWasCutOffIsMadeGood(t *testing.T) {
	disc, _ := discs(t)
	image := disc(func(s *seed.Seed) { s.User = "l4lab" })
	whole := newRig(t)
	whole.device("vdb", "800", image)
	if err := whole.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Count(whole.log.String(), "\n")
	for n := range lines - 1 { // the last is of the end
		r := newRig(t)
		r.device("vdb", "800", image)
		r.log.watch = func(string) {
			if strings.Count(r.log.String(), "\n") > n {
				panic("cut off")
			}
		}
		func() {
			defer func() { _ = recover() }()
			t.Errorf("line %d does not come: %v", n, r.Apply(t.Context()))
		}()
		same(t, "the instance of a boot that was cut off", r.read(InstanceFile), "(none)")
		r.log.watch = nil
		if err := r.Apply(t.Context()); err != nil {
			t.Errorf("after line %d: %v", n, err)
		}
		want, got := whole.files(), r.files()
		for path, text := range want {
			same(t, path, got[path], text)
		}
		same(t, "the number of files", len(got), len(want))
	}
}

func TestHalfOfASecondSeedIsNotTheFirst(t *testing.T) {
	disc, _ := discs(t)
	r := newRig(t)
	r.device("vdb", "800", disc(nil))
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.device("vdb", "800", disc(func(s *seed.Seed) { s.Hostname = "be4" }))
	r.log.watch = func(line string) {
		if strings.Contains(line, "wrote /etc/hostname") {
			panic("cut off")
		}
	}
	func() {
		defer func() { _ = recover() }()
		t.Errorf("it is not cut off: %v", r.Apply(t.Context()))
	}()
	r.log.watch = nil
	r.device("vdb", "800", disc(nil))
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "the name, with the first disc again", r.read("/etc/hostname"), "be3\n")
}

func TestWhatFailsIsToldAndTriedAgain(t *testing.T) {
	disc, _ := discs(t)
	r := newRig(t)
	r.device("vdb", "800", disc(nil))
	r.Run = func(context.Context, []string) error { return errors.New("no such module") }
	put(t, filepath.Join(r.Machine.Root, "/etc/l4lab"), nil) // a file where a folder has to be
	err := r.Apply(t.Context())
	for _, want := range []string{"modprobe", "no such module", "/etc/l4lab/note", "next boot"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	same(t, "the name, in spite of it", r.read("/etc/hostname"), "be3\n")
	same(t, "the instance", r.read(InstanceFile), "(none)")
	if err := os.Remove(filepath.Join(r.Machine.Root, "/etc/l4lab")); err != nil {
		t.Fatal(err)
	}
	r.Run = func(context.Context, []string) error { return nil }
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "the file, at the next boot", r.read("/etc/l4lab/note"), "hello\n")
}
