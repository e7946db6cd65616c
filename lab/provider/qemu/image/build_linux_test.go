package image

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
)

func TestRecipeHash(t *testing.T) {
	base := Debian().Hash()
	if Debian().Hash() != base {
		t.Fatal("the same recipe has two hashes")
	}
	cases := []struct {
		name   string
		change func(*Recipe)
		other  bool
	}{
		{"another package", func(r *Recipe) { r.Packages = append(r.Packages, "tcpdump") }, true},
		{"another file in the image", func(r *Recipe) { r.Files["etc/motd"] = "hello" }, true},
		{"a unit that is masked no more", func(r *Recipe) { r.Mask = r.Mask[1:] }, true},
		{"another init of the initrd", func(r *Recipe) { r.Init += "\n" }, true},
		{"another first-boot program that needs a new image", func(r *Recipe) { r.FirstBootVersion++ }, true},
		{"another driver for other machines", func(r *Recipe) { r.Drivers["hyperv"] = r.Drivers["hyperv"][1:] }, true},
		{"another mirror of the same packages", func(r *Recipe) { r.Mirror = "http://localhost/debian" }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := Debian()
			c.change(&r)
			if other := r.Hash() != base; other != c.other {
				t.Errorf("another hash: %v, want %v", other, c.other)
			}
		})
	}
}

func TestDebianRecipe(t *testing.T) {
	r := Debian()
	for _, pkg := range []string{"openssh-server", "nginx-light", "iproute2", "kmod", "diffutils", "procps", "systemd-sysv"} {
		if !slices.Contains(r.Packages, pkg) {
			t.Errorf("lacks %s", pkg)
		}
	}
	for _, unit := range r.Enable {
		if slices.Contains(r.Mask, unit) {
			t.Errorf("%s is enabled and masked", unit)
		}
	}
	for _, unit := range []string{"l4lab-firstboot.service", "ssh.service"} {
		if r.Files["etc/systemd/system/"+unit] == "" || !slices.Contains(r.Enable, unit) {
			t.Errorf("%s is not there or not enabled", unit)
		}
	}
	for list, modules := range r.Drivers {
		if len(modules) == 0 || !strings.Contains(r.Init, "load "+list+"\n") && !strings.Contains(r.Init, "load "+list+" ") {
			t.Errorf("the init script never loads the list %s", list)
		}
	}
	for _, unit := range r.Mask {
		if strings.HasPrefix(unit, "systemd-journald.") || unit == "tmp.mount" {
			t.Errorf("%s is masked", unit)
		}
	}
	if !strings.Contains(r.Files["etc/ssh/sshd_config.d/05-image.conf"], "KexAlgorithms curve25519-sha256\n") {
		t.Error("sshd offers key exchange that takes seconds")
	}
}

func TestWherePackagesComeFrom(t *testing.T) {
	const security = "deb http://deb.debian.org/debian-security bookworm-security main"
	for _, c := range []struct {
		name string
		o    BuildOptions
		want []string
	}{
		{"Debian's mirrors unless one is named", BuildOptions{}, []string{"http://deb.debian.org/debian", security}},
		{"a mirror of one's own alone", BuildOptions{Mirror: "http://localhost/d"}, []string{"http://localhost/d"}},
		{"two of one's own", BuildOptions{Mirror: "http://localhost/d", Security: "http://localhost/s"},
			[]string{"http://localhost/d", "deb http://localhost/s bookworm-security main"}},
		{"another mirror of security updates", BuildOptions{Security: "http://localhost/s"},
			[]string{"http://deb.debian.org/debian", "deb http://localhost/s bookworm-security main"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := builder{Recipe: Debian(), BuildOptions: c.o}
			if got := b.sources(); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestLoadOrder(t *testing.T) {
	dep := filepath.Join(t.TempDir(), "modules.dep")
	content := "kernel/a/virtio_pci.ko: kernel/a/modern.ko kernel/a/virtio.ko kernel/a/ring.ko\n" +
		"kernel/b/virtio_blk.ko: kernel/a/virtio.ko kernel/a/ring.ko\nkernel/a/virtio.ko: kernel/a/ring.ko\n"
	if err := os.WriteFile(dep, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := loadOrder(dep, []string{"virtio_pci", "virtio_blk"})
	want := []string{"kernel/a/ring.ko", "kernel/a/virtio.ko", "kernel/a/modern.ko", "kernel/a/virtio_pci.ko", "kernel/b/virtio_blk.ko"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := loadOrder(dep, []string{"nvme"}); err == nil || !strings.Contains(err.Error(), "nvme") {
		t.Errorf("a module that is not there: %v", err)
	}
}

func TestInitrd(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"busybox": "ELF", "x.ko": "module"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := writeInitrd(&b, filepath.Join(dir, "busybox"), "#!/bin/sh\n", dir, []string{"x.ko"}); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for r := cpio.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h.Linkname + string(content)
		if h.Name == "init" && h.Mode.Perm() != 0o755 {
			t.Errorf("init has the mode %v", h.Mode)
		}
	}
	for name, want := range map[string]string{"init": "#!/bin/sh\n", "bin/sh": "busybox", "bin/busybox": "ELF", "modules/x.ko": "module", "modules/order": "x.ko\n"} {
		if found[name] != want {
			t.Errorf("%s is %q, want %q", name, found[name], want)
		}
	}
	// The script may call nothing that the initrd lacks.
	for line := range strings.Lines(Debian().Init) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if slices.Contains([]string{"modprobe", "mkdir", "sleep", "mknod", "ln"}, word) && !slices.Contains(initrdCommands, word) {
			t.Errorf("init runs %s, which is not in the initrd", word)
		}
	}
}

func TestDriversAreAnArchiveOfTheirOwnWithEachModuleOnce(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"scsi.ko", "vmbus.ko", "button.ko"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := writeDrivers(&b, dir, map[string][]string{"hyperv": {"vmbus.ko", "scsi.ko"}, "other": {"button.ko", "scsi.ko"}}); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for r := cpio.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		content, readErr := io.ReadAll(r)
		if err := errors.Join(err, readErr); err != nil {
			t.Fatal(err)
		}
		if _, twice := found[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		found[h.Name] = string(content)
	}
	for name, want := range map[string]string{"modules/hyperv": "vmbus.ko\nscsi.ko\n", "modules/other": "button.ko\nscsi.ko\n", "modules/vmbus.ko": "vmbus.ko"} {
		if found[name] != want {
			t.Errorf("%s is %q, want %q", name, found[name], want)
		}
	}
	if len(found) != 5 {
		t.Errorf("it holds %v", found)
	}
}

func TestModulesThatAreKept(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"net/sched/cls_bpf.ko", "netx/no.ko", "drivers/gpu/no.ko", "drivers/net/virtio_net.ko"} {
		if err := place(filepath.Join(dir, "kernel", name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := keepModules(dir, []string{"net", "drivers/net"}); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "kernel/*/*/*.ko"))
	short, _ := filepath.Glob(filepath.Join(dir, "kernel/*/*.ko"))
	if len(left) != 2 || len(short) != 0 {
		t.Errorf("left %v %v", left, short)
	}
}

func TestBuildThatCannotBegin(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: what is refused after the check for root")
	}
	cases := []struct {
		name string
		o    BuildOptions
		path string
		want error
	}{
		{"without the first-boot program", BuildOptions{FirstBoot: "/nowhere/lbagent"}, os.Getenv("PATH"), fs.ErrNotExist},
		{"with a folder in its place", BuildOptions{FirstBoot: "/"}, os.Getenv("PATH"), nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := Store{filepath.Join(t.TempDir(), "images")}
			_, err := s.Build(t.Context(), Debian(), c.o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(s.Dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the store was made: %v", err)
			}
		})
	}
}

func TestInitrdTakesStaticProgramsAlone(t *testing.T) {
	ls, err := exec.LookPath("ls")
	if err != nil {
		t.Fatal(err)
	}
	if err := checkStatic(ls); err == nil || !strings.Contains(err.Error(), "install busybox-static") {
		t.Errorf("%s: %v", ls, err)
	}
	busybox, err := LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	if err := checkStatic(busybox); err != nil {
		t.Error(err)
	}
}

func TestBuildReturnsWhatIsThere(t *testing.T) {
	s := Store{t.TempDir()}
	i := stored(t, s, "debian", "a")
	r := Debian()
	if err := os.Rename(filepath.Join(s.Dir, i.ID), filepath.Join(s.Dir, imageID(r.Name, r.Hash()))); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Build(t.Context(), r, BuildOptions{}); err != nil || got.ID != imageID(r.Name, r.Hash()) {
		t.Errorf("got %v, %v", got.ID, err)
	}
}

// envBuild lets the test build a whole image, which takes minutes and a mirror.
const envBuild = "L4LAB_TEST_IMAGE_BUILD"

func TestBuildDebian(t *testing.T) {
	if os.Getenv(envBuild) == "" {
		t.Skip("takes minutes and a mirror of Debian: set " + envBuild)
	}
	program, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	s := Store{t.TempDir()}
	i, err := s.Build(t.Context(), Debian(), BuildOptions{FirstBoot: program, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if i.Packages["openssh-server"] == "" || !strings.HasPrefix(filepath.Base(i.Kernel), "vmlinuz") {
		t.Errorf("got %+v", i)
	}
	manifest, err := os.ReadFile(filepath.Join(filepath.Dir(i.Disk), manifestFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/cls_bpf.ko\n", "/sch_ingress.ko\n", "/hv_storvsc.ko\n", "/hv_netvsc.ko\n", "/usr/sbin/nginx\n", "/usr/sbin/sshd\n", "/usr/bin/cmp\n", "/" + firstBootPath + "\n"} {
		if !strings.Contains(string(manifest), path) {
			t.Errorf("the image lacks %s", strings.TrimSpace(path))
		}
	}
	if strings.Contains(string(manifest), "ssh_host_") {
		t.Error("the image has host keys")
	}
	left, _ := filepath.Glob(filepath.Join(s.Dir, ".new-*"))
	if len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
