package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"l4lab/lab/provider"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/topology"
)

// overhead is what a QEMU takes besides its guest's memory, in MB: its own code and
// data, and the translated code under emulation, of which a large guest has more.
func overhead(memoryMB int) int { return max(96, memoryMB/8) }

// Check implements provider.Provider.
func (p *Provider) Check(ctx context.Context, lab provider.Lab) []provider.Requirement {
	requirements := p.base.Check(ctx, lab)
	block := topology.FilledQEMU(lab.Topology.Providers.QEMU)
	for _, r := range []struct {
		name, remedy string
		probe        func() (found string, err error)
	}{
		{"QEMU", "apt-get install qemu-system-x86", func() (string, error) { return program("qemu-system-x86_64") }},
		{"QEMU's disk tool", "apt-get install qemu-utils", func() (string, error) { return program("qemu-img") }},
		{"tap devices", "load the module: modprobe tun; in a container, let it have /dev/net/tun", tun},
		{"acceleration", "leave providers.qemu.accel at auto, or run it where KVM works", func() (string, error) { return p.accelerates(block) }},
		{"memory", "give the machines less (providers.qemu.memoryMB), or end something", func() (string, error) { return memory(lab, block) }},
		{"image " + block.Images.Linux, "labctl image build debian, or labctl image import FILE --name " + block.Images.Linux, func() (string, error) { return p.imageFound(block.Images.Linux, topology.Linux) }},
	} {
		q := provider.Requirement{Name: r.name, OK: true, Fatal: true, ForUp: true}
		found, err := r.probe()
		if q.Found = found; err != nil {
			q.OK, q.Found, q.Remedy = false, err.Error(), r.remedy
		}
		requirements = append(requirements, q)
	}
	return append(requirements, p.windowsFound(lab.Topology)...)
}

func program(name string) (string, error) {
	path, err := image.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("there is no %s here", name)
	}
	return path, nil
}

func tun() (string, error) {
	const device = "/dev/net/tun"
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	return device, f.Close()
}

// accelerates says how guests would run.
func (p *Provider) accelerates(block topology.QEMU) (string, error) {
	if block.Accel == topology.AccelTCG {
		return "tcg, as the topology says: instructions are emulated", nil
	}
	if _, err := program("qemu-system-x86_64"); err != nil {
		return "not looked for: there is no QEMU", nil
	}
	found, err := p.accel()
	switch {
	case err != nil:
		return "", fmt.Errorf("start a guest to see what works: %w", err)
	case found.Accel == vm.KVM:
		return "kvm", nil
	case block.Accel == topology.AccelKVM:
		return "", fmt.Errorf("KVM does not work here: %s", found.why)
	}
	return "tcg: instructions are emulated, since " + found.why, nil
}

// memory says whether all machines that do not run yet fit.
func memory(lab provider.Lab, block topology.QEMU) (string, error) {
	free, err := vm.FreeMemoryMB()
	if err != nil {
		return "", err
	}
	need := 0
	sizes := map[int]int{} // machines by their memory
	for _, name := range missing(lab) {
		mb := block.MemoryMB
		if isWindows(lab.Topology, name) {
			mb = block.Windows.MemoryMB
		}
		sizes[mb]++
		need += mb + overhead(mb)
	}
	if need > free {
		return "", fmt.Errorf("%s, with what QEMU takes besides, need %d MB, and %d are free", inWords(sizes), need, free)
	}
	return fmt.Sprintf("%d MB free, %d needed", free, need), nil
}

// inWords is "2 machines of 2048 MB and 3 of 240 MB".
func inWords(sizes map[int]int) string {
	var words []string
	for _, mb := range slices.Backward(slices.Sorted(maps.Keys(sizes))) {
		words = append(words, fmt.Sprintf("%d of %d MB", sizes[mb], mb))
	}
	return strings.Replace(strings.Join(words, " and "), " of", " machines of", 1)
}

// imageFound says whether the image is there, for that system, or can be made.
func (p *Provider) imageFound(name string, os topology.OS) (string, error) {
	img, err := p.o.Images.Get(name)
	if err == nil {
		return img.Disk, fitsNodes(img, os)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if name != image.Debian().Name {
		return "", fmt.Errorf("it is not in %s", p.o.Images.Dir)
	}
	if missing := image.MissingPackages(); len(missing) > 0 {
		return "", fmt.Errorf("it is not in %s, and to build it this machine lacks %s (apt-get install %[2]s)", p.o.Images.Dir, strings.Join(missing, " "))
	}
	return "not there yet: `labctl up` builds it", nil
}

// image returns an image, and builds it when it is one that can be.
func (p *Provider) image(ctx context.Context, name string) (image.Image, error) {
	p.building.Lock()
	defer p.building.Unlock()
	p.mu.Lock()
	img, known := p.images[name]
	p.mu.Unlock()
	if known {
		return img, nil
	}
	img, err := p.o.Images.Get(name)
	// One that was built by an older recipe is built anew; one of that name that was
	// imported is the user's.
	recipe := image.Debian()
	outdated := err == nil && img.FirstBoot == image.L4Lab && img.Recipe != recipe.Hash()
	if name == recipe.Name && (outdated || errors.Is(err, fs.ErrNotExist)) {
		p.o.Say("image " + name + " is built, which takes a minute or two")
		img, err = p.o.Images.Build(ctx, recipe, image.BuildOptions{FirstBoot: p.o.FirstBoot})
	}
	if err != nil {
		return img, fmt.Errorf("image %s: %w", name, err)
	}
	p.mu.Lock()
	p.images[name] = img
	p.mu.Unlock()
	return img, nil
}
