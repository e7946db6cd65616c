package image

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"l4lab/topology"
)

// BuildOptions are what a build needs beside its recipe, and what does not count
// as another image.
type BuildOptions struct {
	// FirstBoot is the path of the first-boot program, for Linux on amd64.
	FirstBoot string
	// Mirror is where packages come from, Security where their security updates do.
	// "" is the recipe's, the latter only where Mirror is, too: a mirror of one's
	// own is taken at its word.
	Mirror, Security string
	// Log gets what the tools write; nil drops it.
	Log io.Writer
}

// missingOf returns the packages of the programs that this machine lacks.
func missingOf(tools map[string]string) []string {
	var missing []string
	for tool, pkg := range tools {
		if _, err := LookPath(tool); err != nil && !slices.Contains(missing, pkg) {
			missing = append(missing, pkg)
		}
	}
	slices.Sort(missing)
	return missing
}

// buildTools are the programs that a build runs, by Debian's package.
var buildTools = map[string]string{
	"mmdebstrap": "mmdebstrap", "dpkg-deb": "dpkg", "mke2fs": "e2fsprogs", "qemu-img": "qemu-utils", "busybox": "busybox-static",
}

// firstBootPath is where the image has the first-boot program.
const firstBootPath = "usr/lib/l4lab/firstboot"

// Build returns the image of a recipe, which it makes when the store lacks it:
// as root, since files of the image belong to several users.
func (s Store) Build(ctx context.Context, r Recipe, o BuildOptions) (Image, error) {
	if err := checkName(r.Name); err != nil {
		return Image{}, err
	}
	if i, err := s.Current(r); !errors.Is(err, fs.ErrNotExist) {
		return i, err
	}
	if err := o.check(); err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", r.Name, err)
	}
	release, err := s.lock(ctx, r.Name)
	if err != nil {
		return Image{}, err
	}
	defer release()
	if i, err := s.Current(r); !errors.Is(err, fs.ErrNotExist) {
		return i, err // by the labctl that had the lock
	}
	i, err := s.build(ctx, r, o)
	if err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", r.Name, err)
	}
	return i, nil
}

// Current returns the image of a recipe as it is now; fs.ErrNotExist when it was
// not built.
func (s Store) Current(r Recipe) (Image, error) { return s.read(imageID(r.Name, r.Hash())) }

// check finds what is missing before anything is made.
func (o *BuildOptions) check() error {
	if o.Log == nil {
		o.Log = io.Discard
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root, since files of the image belong to several users: %w", fs.ErrPermission)
	}
	info, err := os.Stat(o.FirstBoot)
	if err != nil {
		return fmt.Errorf("the first-boot program: %w; make build makes it", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("the first-boot program: %s is no file", o.FirstBoot)
	}
	if missing := MissingPackages(); len(missing) > 0 {
		return fmt.Errorf("%w: install %s", exec.ErrNotFound, strings.Join(missing, ", "))
	}
	busybox, err := LookPath("busybox")
	if err != nil {
		return err
	}
	return checkStatic(busybox)
}

// checkStatic refuses a program that needs a loader, which the initrd lacks: the
// machine would only say that it found no init.
func checkStatic(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("%s is linked dynamically, and the initrd has no libraries: install busybox-static", program)
	}
	return nil
}

// MissingPackages returns the Debian packages that a build needs and this machine lacks.
func MissingPackages() []string { return missingOf(buildTools) }

// builder is one build.
type builder struct {
	Recipe
	BuildOptions
	// work becomes the image's folder; root is the file tree of its disk.
	work, root string
	// scratch holds what is unpacked on the way.
	scratch string
	image   Image
}

func (s Store) build(ctx context.Context, r Recipe, o BuildOptions) (_ Image, err error) {
	work, err := s.workFolder(r.Name)
	if err != nil {
		return Image{}, err
	}
	scratch, err := os.MkdirTemp(s.Dir, ".new-"+r.Name+"-*")
	if err != nil {
		return Image{}, errors.Join(err, os.RemoveAll(work))
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(scratch))
		if removeErr := os.RemoveAll(work); err == nil {
			err = removeErr // nothing when it was published
		}
	}()
	b := builder{Recipe: r, BuildOptions: o, work: work, scratch: scratch, root: filepath.Join(scratch, "root")}
	b.image = Image{Name: r.Name, Recipe: r.Hash(), OS: topology.Linux, FirstBoot: L4Lab,
		Kernel: kernelFile, Initrd: initrdFile, Drivers: driversFile, Append: r.Append, Packages: map[string]string{}}
	for _, step := range []func(context.Context) error{b.bootstrap, b.kernel, b.finish, b.initrd, b.disk} {
		if err := step(ctx); err != nil {
			return Image{}, err
		}
	}
	return s.publish(work, b.image)
}

// fetchKernel is run by mmdebstrap, whose apt knows the mirror, with the tree as
// its argument.
const fetchKernel = `set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
name=$(apt-cache depends "$L4LAB_KERNEL" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
cd "$L4LAB_SCRATCH"
apt-get -q download "$name"
mv "$name"_*.deb kernel.deb`

// sources are the mirrors as mmdebstrap takes them: the first for the suite, others in
// the form of sources.list(5).
func (b *builder) sources() []string {
	mirror, security := b.BuildOptions.Mirror, b.BuildOptions.Security
	if mirror == "" {
		mirror = b.Recipe.Mirror
		if security == "" {
			security = b.Recipe.Security
		}
	}
	if security == "" {
		return []string{mirror}
	}
	return []string{mirror, "deb " + security + " " + b.Suite + "-security main"}
}

// bootstrap installs the distribution's packages into the tree.
func (b *builder) bootstrap(ctx context.Context) error {
	argv := []string{"mmdebstrap", "--mode=root", "--variant=essential", "--format=directory", "--architectures=amd64",
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		"--include=" + strings.Join(b.Packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		"--dpkgopt=force-unsafe-io",
		"--customize-hook=" + fetchKernel,
	}
	for _, pattern := range b.Exclude {
		argv = append(argv, "--dpkgopt=path-exclude="+pattern)
	}
	argv = append(append(argv, b.Suite, b.root), b.sources()...)
	env := []string{"L4LAB_SCRATCH=" + b.scratch, "L4LAB_KERNEL=" + b.Kernel, "SOURCE_DATE_EPOCH=" + epoch}
	if err := runLogged(ctx, b.Log, env, argv...); err != nil {
		return err
	}
	out, err := run(ctx, "dpkg-query", "--admindir="+filepath.Join(b.root, "var/lib/dpkg"), "--show", "--showformat=${Package} ${Version}\n")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if name, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			b.image.Packages[name] = version
		}
	}
	return nil
}
