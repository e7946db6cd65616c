package vm

import (
	"slices"
	"strings"
	"testing"
)

// valueOf returns what follows an option, all of them when it is there more than once.
func valuesOf(args []string, option string) []string {
	var values []string
	for i, a := range args {
		if a == option && i+1 < len(args) {
			values = append(values, args[i+1])
		}
	}
	return values
}

func TestTheMachineAsQEMUsOptions(t *testing.T) {
	t.Parallel()
	base := Config{Name: "be1", Dir: "/run/x", Accel: TCG, MemoryMB: 384, CPUs: 2}
	for name, tt := range map[string]struct {
		change func(*Config)
		option string
		want   []string
	}{
		"emulated":                         {func(*Config) {}, "-accel", []string{"tcg,tb-size=96"}},
		"room for the code of a large one": {func(c *Config) { c.MemoryMB = 2048 }, "-accel", []string{"tcg,tb-size=256"}},
		"emulated processor":               {func(*Config) {}, "-cpu", []string{"max"}},
		"KVM":                              {func(c *Config) { c.Accel = KVM }, "-accel", []string{"kvm"}},
		"KVM's processor":                  {func(c *Config) { c.Accel = KVM }, "-cpu", []string{"host"}},
		"a chosen processor":               {func(c *Config) { c.CPUModel = "Skylake-Server" }, "-cpu", []string{"Skylake-Server"}},
		"memory in MB":                     {func(*Config) {}, "-m", []string{"384"}},
		"processors":                       {func(*Config) {}, "-smp", []string{"2"}},
		"the clock":                        {func(*Config) {}, "-rtc", []string{"base=utc"}},
		"a name with a comma":              {func(c *Config) { c.Name = "be1,x=y" }, "-name", []string{"guest=be1,,x=y"}},
		"a kernel in a folder with commas": {func(c *Config) { c.Kernel = "/a,b/vmlinuz" }, "-kernel", []string{"/a,b/vmlinuz"}},
		"a command line with commas":       {func(c *Config) { c.Kernel, c.Append = "/vmlinuz", "a=b,c d" }, "-append", []string{"a=b,c d"}},
		"no initrd unless given":           {func(c *Config) { c.Kernel = "/vmlinuz" }, "-initrd", nil},
		"disks in order, whatever their paths": {func(c *Config) {
			c.Disks = []Disk{{Path: `/a,b"c/x.qcow2`, Format: "qcow2"}, {Path: "/seed.iso", Format: "raw", ReadOnly: true}}
		}, "-blockdev", []string{
			`{"driver":"qcow2","file":{"driver":"file","filename":"/a,b\"c/x.qcow2"},"node-name":"disk0-0","read-only":false}`,
			`{"driver":"raw","file":{"driver":"file","filename":"/seed.iso"},"node-name":"disk1-0","read-only":true}`,
		}},
		"a CD is not written to": {func(c *Config) {
			c.Disks = []Disk{{Path: "/seed.iso", Format: "raw", Bus: CD}}
		}, "-blockdev", []string{`{"driver":"raw","file":{"driver":"file","filename":"/seed.iso"},"node-name":"disk0-0","read-only":true}`}},
		"no network from which to boot, and no card": {func(*Config) {}, "-netdev", nil},
		"a card without offloads": {func(c *Config) {
			c.NIC = NIC{Tap: "be1", MAC: "02:00:00:00:00:01"}
		}, "-netdev", []string{"tap,id=net0,ifname=be1,script=no,downscript=no,vnet_hdr=off"}},
		"nothing incoming": {func(*Config) {}, "-incoming", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := base
			tt.change(&c)
			if got := valuesOf(c.arguments(""), tt.option); !slices.Equal(got, tt.want) {
				t.Errorf("%s\n got %q\nwant %q", tt.option, got, tt.want)
			}
		})
	}
}

func TestTheDevicesOfAMachine(t *testing.T) {
	t.Parallel()
	c := Config{
		Disks: []Disk{{Serial: "a,b"}, {Bus: SATA}, {Bus: CD, Path: "/seed.iso"}, {Bus: CD}, {Bus: SCSI}, {Bus: DVD}},
		VGA:   true, NIC: NIC{Tap: "be1", MAC: "02:00:00:00:00:01", Model: "e1000"},
	}
	got := valuesOf(c.arguments(""), "-device")
	for _, want := range []string{
		"virtio-blk-pci,id=disk0,drive=disk0-0,bootindex=1,serial=a,,b",
		"ide-hd,bus=ide.1,id=disk1,drive=disk1-0,bootindex=2",
		"ide-cd,bus=ide.2,id=disk2,drive=disk2-0,bootindex=3",
		"ide-cd,bus=ide.3,id=disk3,bootindex=4",
		"VGA",
		"virtio-scsi-pci,id=scsi",
		"scsi-hd,bus=scsi.0,lun=4,id=disk4,drive=disk4-0,bootindex=5",
		"scsi-cd,bus=scsi.0,lun=5,id=disk5,drive=disk5-0,bootindex=6",
		"e1000,id=nic0,netdev=net0,mac=02:00:00:00:00:01,romfile=",
		"pvpanic",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("there is no %q among\n%s", want, strings.Join(got, "\n"))
		}
	}
	c.NIC.Model = ""
	if !slices.Contains(valuesOf(c.arguments(""), "-device"), "virtio-net-pci,id=nic0,netdev=net0,mac=02:00:00:00:00:01,romfile=") {
		t.Error("a card is not virtio when nothing else is said")
	}
	c.Disks = c.Disks[:3]
	if slices.Contains(valuesOf(c.arguments(""), "-device"), "virtio-scsi-pci,id=scsi") {
		t.Error("there is a SCSI controller that nothing is at")
	}
}

func TestNothingListensOnTheNetwork(t *testing.T) {
	t.Parallel()
	c := Config{Name: "be1", Accel: TCG, Kernel: "/vmlinuz", Disks: []Disk{{Path: "/d", Format: "raw"}}}
	args := c.arguments("")
	for _, a := range args {
		for _, word := range []string{"tcp", "vnc", "spice", "0.0.0.0", "127.0.0.1", "port="} {
			if strings.Contains(a, word) {
				t.Errorf("the argument %q says %q", a, word)
			}
		}
	}
	for _, option := range []string{"-nodefaults", "-no-user-config"} {
		if !slices.Contains(args, option) {
			t.Errorf("there is no %s: QEMU adds devices, or reads a user's file", option)
		}
	}
}
