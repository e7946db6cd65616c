package firstboot

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"l4lab/lab/guest/seed"
)

func TestADiscThatAppearsLaterIsWaitedFor(t *testing.T) {
	disc, _ := discs(t)
	r := newRig(t)
	r.Wait = time.Minute
	r.log.watch = func(line string) {
		if strings.Contains(line, "waiting for the seed's disc") {
			r.device("cciss!c0d1", "800", nil)
			put(t, filepath.Join(r.Nodes, "cciss/c0d1"), disc(nil))
		}
	}
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "the name", r.name, "be3")
}

func TestAMissingDiscIsAnErrorThatSaysWhatIsThere(t *testing.T) {
	r := newRig(t)
	other := make([]byte, 40*1024)
	copy(other[16*2048:], "\x01CD001\x01")
	copy(other[16*2048+40:], "DEBIAN 12                       ")
	r.device("sr0", "80", other)
	put(t, filepath.Join(r.Devices, "vdc/size"), []byte("8\n")) // its file is not there yet
	err := r.Apply(t.Context())
	if !errors.Is(err, ErrNoDisc) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"cidata", "sr0 (DEBIAN 12)", "vda (no ISO 9660 volume)", "vdc (no such file", "1ms"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	if strings.Contains(err.Error(), "loop0") {
		t.Errorf("it speaks of a device without a medium: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	r.Wait = time.Hour
	if err := r.Apply(cancelled); err == nil {
		t.Error("it does not stop when it is told to")
	}
}

func TestADamagedDiscChangesNothing(t *testing.T) {
	disc, host := discs(t)
	image := disc(nil)
	secret := strings.Split(string(host.Private()), "\n")[1]
	unknown := bytes.Replace(image, []byte("ssh_deletekeys"), []byte("ssh_deletekeyz"), 1)
	broken := bytes.Replace(image, []byte("ssh_keys:"), []byte("ssh_keys["), 1)
	for name, image := range map[string][]byte{"an unknown key": unknown, "a broken text": broken, "a disc cut off": image[:20*2048]} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			before := len(r.files())
			r.device("vdb", "800", image)
			err := r.Apply(t.Context())
			if err == nil || !strings.Contains(err.Error(), filepath.Join(r.Nodes, "vdb")) {
				t.Fatalf("got %v, want an error that names the disc", err)
			}
			if strings.Contains(err.Error(), secret[10:40]) {
				t.Errorf("it shows the host key: %v", err)
			}
			same(t, "the number of files", len(r.files()), before)
			same(t, "boot commands", len(r.ran), 0)
		})
	}
}

func TestASeedThatAsksForMoreIsRefusedAsAWhole(t *testing.T) {
	image, _ := discs(t)
	good, err := seed.Read(bytes.NewReader(image(nil)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := planOf(good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*seed.Contents)
		want   string
	}{
		"passwords":             {func(c *seed.Contents) { c.UserData.PasswordLogin = true }, "password"},
		"updates":               {func(c *seed.Contents) { c.UserData.PackageUpdate = true }, "packages"},
		"root in and out":       {func(c *seed.Contents) { c.UserData.DisableRoot = true }, "root"},
		"no instance":           {func(c *seed.Contents) { c.MetaData.InstanceID = "" }, "instance"},
		"no host key":           {func(c *seed.Contents) { c.UserData.HostKeys = nil }, "host key"},
		"no name":               {func(c *seed.Contents) { c.UserData.Hostname = "" }, "hostname"},
		"strange permissions":   {func(c *seed.Contents) { c.UserData.Files[0].Permissions = "4755" }, "permissions"},
		"a command of nothing":  {func(c *seed.Contents) { c.UserData.BootCommands = [][]string{{}} }, "program"},
		"an interface nowhere":  {func(c *seed.Contents) { c.NetworkConfig.Ethernets["../x"] = c.NetworkConfig.Ethernets["lab"] }, "name"},
		"no MAC":                {func(c *seed.Contents) { c.NetworkConfig.Ethernets["lab"] = seed.Ethernet{} }, "lab"},
		"another version":       {func(c *seed.Contents) { c.NetworkConfig.Version = 1 }, "version 1"},
		"a network of nothing":  {func(c *seed.Contents) { c.NetworkConfig.Ethernets = nil }, "no interface"},
		"an address that isn't": {func(c *seed.Contents) { setAddress(c, "20.1.1.30") }, "20.1.1.30"},
	} {
		t.Run(name, func(t *testing.T) {
			contents, err := seed.Read(bytes.NewReader(image(nil)))
			if err != nil {
				t.Fatal(err)
			}
			c.change(&contents)
			if _, err := planOf(contents); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func setAddress(c *seed.Contents, address string) {
	e := c.NetworkConfig.Ethernets["lab"]
	e.Addresses = []string{address}
	c.NetworkConfig.Ethernets["lab"] = e
}

func TestABootCommandRuns(t *testing.T) {
	if err := runCommand(t.Context(), []string{"true"}); err != nil {
		t.Error(err)
	}
	err := runCommand(t.Context(), []string{"sh", "-c", "echo why not >&2; exit 3"})
	if err == nil || !strings.Contains(err.Error(), "why not") || !strings.Contains(err.Error(), "3") {
		t.Errorf("got %v, want its code and what it wrote", err)
	}
}

func TestTheUnitComesBeforeWhatReadsItsWork(t *testing.T) {
	before := ""
	for line := range strings.Lines(Unit) {
		if names, ok := strings.CutPrefix(strings.TrimSpace(line), "Before="); ok {
			before = names
		}
	}
	for _, unit := range []string{"systemd-networkd.service", "ssh.service"} {
		if !slices.Contains(strings.Fields(before), unit) {
			t.Errorf("it is not before %s: Before=%s", unit, before)
		}
	}
}
