package hyperv

import (
	"context"

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

func (b *build) setUpWindows(ctx context.Context) error {
	w, err := b.windowsMachine(b.lab, b.name)
	if err != nil {
		return err
	}
	t := b.lab.Topology
	return w.SetUp(ctx, windows.Outfit{
		PrefixLength: t.Switch.Subnet.Bits(), MTU: t.Switch.MTU, Balancer: b.name == t.LoadBalancer(),
		EBPF: b.target.EBPF, Block: "providers.hyperv.ebpf", Program: b.p.o.Programs[topology.Windows],
		Restart: windows.Restart{
			Way: "PowerShell Direct", Hint: b.console(), Limit: b.limits().Restart, Pause: b.limits().Pause, Say: b.p.o.Say,
		},
	})
}
