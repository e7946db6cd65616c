package hyperv

import (
	"context"
	"fmt"

	"l4lab/lab/guest"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/linux"
	"l4lab/lab/role/windows"
	"l4lab/topology"
)

// setUp gives a machine that answers what every role needs. Doing it again
// changes nothing.
func (b *build) setUp(ctx context.Context) error {
	if b.node.OS == topology.Windows {
		return b.setUpWindows(ctx)
	}
	return b.setUpLinux(ctx)
}

func (b *build) setUpLinux(ctx context.Context) error {
	s, err := b.seedOf(b.lab, b.name)
	if err != nil {
		return err
	}
	g, err := b.linuxGuest(b.lab, b.name)
	if err != nil {
		return err
	}
	if program := b.p.o.Programs[topology.Linux]; program != "" {
		if err := g.Push(ctx, guest.File{Path: linux.Program, Source: program, Executable: true}); err != nil {
			return err
		}
	}
	// The seed holds the host key: neither the machine nor the host keeps it.
	if _, err := b.verbs.SeedEject.Run(ctx, b.runner, scripts.VMParams{ID: b.id, Mark: b.mark}); err != nil {
		return b.errorf("take its seed disc out: %w", err)
	}
	paths := []string{join("seeds", b.name+"-"+s.hash[:12]+".iso")}
	if _, err := b.verbs.FilesRemove.Run(ctx, b.runner, scripts.FilesRemoveParams{Folder: b.folder, Mark: b.mark, Paths: paths}); err != nil {
		return b.errorf("remove its seed disc: %w", err)
	}
	return s.note(b.lab, b.name)
}

// The balancer's own source ports. Windows' default, 49152-65535 (RFC 6335), lies
// in 32768-65535, from which SNAT takes ports; 1025 is the least that Windows takes.
const firstSourcePort, lastSourcePort = 1025, 32767

func (b *build) setUpWindows(ctx context.Context) error {
	w, err := b.windowsMachine(b.lab, b.name)
	if err != nil {
		return err
	}
	t := b.lab.Topology
	if err := w.EnsureAdapter(ctx, t.Switch.Subnet.Bits(), t.Switch.MTU); err != nil {
		return err
	}
	if b.name == t.LoadBalancer() {
		if err := w.EnsureSourcePorts(ctx, firstSourcePort, lastSourcePort); err != nil {
			return err
		}
	}
	if err := b.installEBPF(ctx, w); err != nil {
		return err
	}
	if err := pushAll(ctx, w, b.target.EBPF.Programs); err != nil {
		return fmt.Errorf("push the compiled data path: %w", err)
	}
	if program := b.p.o.Programs[topology.Windows]; program != "" {
		if err := w.PushProgram(ctx, program); err != nil {
			return err
		}
	}
	return w.CleanSetup(ctx)
}

// The installed products' names, as Windows lists them.
const (
	ebpfProduct = "eBPF for Windows"
	ebpfFeature = "ADDLOCAL=eBPF_Runtime_Components,eBPF_Runtime_Components_JIT"
)

// installEBPF turns test signing on, installs what the profile needs, restarts
// as often as that wants, and looks whether it worked.
func (b *build) installEBPF(ctx context.Context, w *windows.Machine) error {
	e := b.target.EBPF
	steps := []func(context.Context) (reboot bool, err error){w.EnsureTestSigning}
	if e.MSI != "" {
		steps = append(steps, func(ctx context.Context) (bool, error) {
			return w.EnsureMSI(ctx, e.MSI, ebpfProduct, []string{ebpfFeature})
		})
	}
	if e.Profile == topology.ProfileXDP && e.XDP != "" {
		steps = append(steps, func(ctx context.Context) (bool, error) { return w.EnsureXDP(ctx, e.XDP) })
	}
	for _, step := range steps {
		reboot, err := step(ctx)
		if err != nil {
			return err
		}
		if reboot {
			if err := b.restart(ctx, w); err != nil {
				return err
			}
		}
	}
	return b.verifyEBPF(ctx, w)
}

func (b *build) verifyEBPF(ctx context.Context, w *windows.Machine) error {
	f, err := w.Facts(ctx)
	switch {
	case err != nil:
		return err
	case !f.TestSigning:
		return fmt.Errorf("test signing is off after its restart: is Secure Boot on, or does a policy forbid it? See `bcdedit` in the guest")
	case f.EBPF == "":
		return fmt.Errorf("eBPF for Windows is not installed: name its installer as providers.hyperv.ebpf.msi, or take an image that has it")
	case b.target.EBPF.Profile == topology.ProfileXDP && f.XDP == "":
		return fmt.Errorf("XDP for Windows is not installed: name its folder as providers.hyperv.ebpf.xdp, or take an image that has it")
	}
	return nil
}
