package topology

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// minimal is the shortest block that names a host.
const minimal = `
providers:
  hyperv:
    host: {address: hv1, caFile: ca.pem, credentials: {userEnv: HV_USER, passwordEnv: HV_PASSWORD}}
    images:
      linux: {path: 'D:\images\linux.vhdx'}
      windows: {path: 'D:\images\windows.vhdx'}
`

func parseHyperV(t *testing.T, block string) Topology {
	t.Helper()
	got, err := Parse("lab.yaml", append(DefaultYAML(), block...))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestAMinimalHyperVBlockGetsItsDefaults(t *testing.T) {
	got := *parseHyperV(t, minimal).Providers.HyperV
	want := HyperV{
		Host: &HyperVHost{Address: "hv1", Port: 5986, HTTPS: true, CAFile: "ca.pem", Auth: AuthNTLM,
			Credentials: Credential{UserEnv: "HV_USER", PasswordEnv: "HV_PASSWORD"}},
		Storage: `C:\l4lab`, Reach: ReachSSHJump, EBPF: EBPF{Profile: ProfileEFW}, Page: PageLBAgent, Loopback: LoopbackBuiltin,
		Images: HyperVImages{
			Linux:   &HyperVImage{Path: `D:\images\linux.vhdx`, Generation: 2, MemoryMB: 1024, CPUs: 2, Login: Credential{User: "root"}},
			Windows: &HyperVImage{Path: `D:\images\windows.vhdx`, Generation: 2, MemoryMB: 2048, CPUs: 2, Login: Credential{User: "Administrator"}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v %+v\nwant %+v %+v", got, *got.Host, want, *want.Host)
	}
	filled := FilledHyperV(HyperV{
		Host:   &HyperVHost{Address: "hv1", CAFile: "ca.pem", Credentials: want.Host.Credentials},
		Images: HyperVImages{Linux: &HyperVImage{Path: `D:\images\linux.vhdx`}, Windows: &HyperVImage{Path: `D:\images\windows.vhdx`}},
	})
	if !reflect.DeepEqual(filled, want) {
		t.Errorf("filled in Go: %+v, want %+v", filled, want)
	}
}

func TestHyperVBlockThatIsRefused(t *testing.T) {
	cases := []struct{ name, from, to, fault string }{
		{"a password in the file", "passwordEnv: HV_PASSWORD", "password: hunter2", "a password has no place in a file"},
		{"a password where a variable's name belongs", "HV_PASSWORD", `"hunter2!"`, "is no name of an environment variable"},
		{"neither a host nor this machine", "    host: {address: hv1, caFile: ca.pem, credentials: {userEnv: HV_USER, passwordEnv: HV_PASSWORD}}\n", "", "says neither host"},
		{"both", "    host:", "    local: true\n    host:", "exclude one another"},
		{"no user", "userEnv: HV_USER, ", "", "names no user"},
		{"basic without HTTPS", "caFile: ca.pem", "https: false, auth: basic", "sends the password itself"},
		{"a CA file without HTTPS", "caFile: ca.pem", "https: false, caFile: ca.pem", "is for HTTPS"},
		{"two ways to trust", "caFile: ca.pem", "caFile: ca.pem, fingerprint: " + strings.Repeat("ab", 32), "exclude one another"},
		{"a short fingerprint", "caFile: ca.pem", "fingerprint: abcd", "is no SHA-256 in hex"},
		{"no image for a system in use", `      windows: {path: 'D:\images\windows.vhdx'}` + "\n", "", "has none for windows, which lb runs"},
		{"an image by a path that is none", `D:\images\linux.vhdx`, "images/linux.vhdx", "is no full path on the host"},
		{"a path that climbs", `D:\images\linux.vhdx`, `D:\images\..\linux.vhdx`, "is no full path on the host"},
		{"an image twice", `linux: {path: 'D:\images\linux.vhdx'}`, `linux: {path: 'D:\images\linux.vhdx', file: l.vhdx}`, "exclude one another"},
		{"a password for Linux", `linux.vhdx'}`, `linux.vhdx', login: {user: me, passwordEnv: P}}`, "take the lab's key alone"},
		{"no user's name on Linux", `linux.vhdx'}`, `linux.vhdx', login: {user: "Me!"}}`, "is no name of a Linux user"},
		{"odd memory", `linux.vhdx'}`, `linux.vhdx', memoryMB: 1023}`, "no even number"},
		{"Secure Boot for Windows", `windows.vhdx'}`, `windows.vhdx', secureBoot: true}`, "Windows refuses test signing"},
		{"an unknown way to guests", "    images:", "    reach: teleport\n    images:", `unknown value "teleport"`},
		{"storage on no drive", "    images:", "    storage: /srv\n    images:", "is no folder on a drive"},
		{"an unknown profile", "    images:", "    ebpf: {profile: efw-9}\n    images:", `unknown value "efw-9"`},
		{"a program of another kind", "    images:", "    ebpf: {programs: [lb.c]}\n    images:", "neither a native image"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			block := strings.Replace(minimal, c.from, c.to, 1)
			if block == minimal {
				t.Fatalf("%q is not in the block", c.from)
			}
			_, err := Parse("lab.yaml", append(DefaultYAML(), block...))
			var faults Faults
			if !errors.As(err, &faults) || !strings.Contains(err.Error(), c.fault) {
				t.Fatalf("error %v, want %q", err, c.fault)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the secret: %v", err)
			}
			for _, f := range faults {
				if f.Line == 0 {
					t.Errorf("fault without a line: %v", f)
				}
			}
		})
	}
}

func TestAllFaultsOfAHyperVBlockAreToldAtOnce(t *testing.T) {
	_, err := Parse("lab.yaml", append(DefaultYAML(), "providers: {hyperv: {local: true, reach: portproxy, page: apache, images: {linux: {}}}}\n"...))
	var faults Faults
	if !errors.As(err, &faults) || len(faults) != 4 {
		t.Errorf("faults %v, want 4: reach, page, the Linux image, the Windows image", err)
	}
}

func TestAHyperVBlockIsWrittenAsItIsRead(t *testing.T) {
	for _, block := range []string{
		minimal,
		strings.Replace(minimal, "caFile: ca.pem", "https: false", 1),
		strings.Replace(minimal, "    images:", "    storage: 'D:\\it''s'\n    ebpf: {profile: xdp, xdp: xdp, msi: e.msi, programs: [a.sys, b.o]}\n    images:", 1),
		"providers: {hyperv: {local: true, images: {linux: {file: l.vhdx, secureBoot: false, sha256: " + strings.Repeat("0a", 32) + "}, windows: {path: 'C:\\w.vhdx', login: {user: \"on\", passwordFile: p}}}}}\n",
	} {
		want := parseHyperV(t, block)
		text, err := Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse("again.yaml", text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if !reflect.DeepEqual(got, want) || len(Diff(got, want)) != 0 {
			t.Errorf("written:\n%s\ndiffers: %v", text, Diff(want, got))
		}
	}
}

func TestDiffNamesWhatChangedOfAHyperVBlock(t *testing.T) {
	old, new := parseHyperV(t, minimal), parseHyperV(t, minimal)
	new.Providers.HyperV.Images.Linux.MemoryMB = 4096
	new.Providers.HyperV.EBPF.Programs = []string{"lb.sys"}
	got := Diff(old, new)
	want := []Change{
		{"providers.hyperv.images.linux.memoryMB", "1024", "4096"},
		{"providers.hyperv.ebpf.programs[0]", "", "lb.sys"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if gone := Diff(old, Default()); len(gone) == 0 || gone[0].New != "" {
		t.Errorf("a block that is gone: %v", gone)
	}
}

func TestFilesOfABlockAreRelativeToTheTopology(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lab.yaml")
	if err := os.WriteFile(path, append(DefaultYAML(), minimal...), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if ca := got.Providers.HyperV.Host.CAFile; ca != filepath.Join(dir, "ca.pem") {
		t.Errorf("caFile is %s, want it in %s", ca, dir)
	}
}

func TestTheHyperVBlockToFillInIsATopology(t *testing.T) {
	got, err := Parse("hyperv.yaml", HyperVYAML())
	if err != nil {
		t.Fatal(err)
	}
	if h := got.Providers.HyperV; h == nil || h.Host == nil || h.Images.Windows == nil {
		t.Errorf("block %+v", h)
	}
}
