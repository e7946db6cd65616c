package hyperv

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"l4lab/lab/guest/answer"
	"l4lab/lab/powershell"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

// shutdownSeconds is how long a guest may take to shut down before it is turned off.
const shutdownSeconds = 60

// build makes or mends one node's machine.
type build struct {
	*host
	lab  provider.Lab
	name string
	node topology.Node
	// image is what its system is made from.
	image topology.HyperVImage
	id    string
}

// EnsureNode implements provider.Provider. A machine whose making did not end is
// made anew; one that was set up is corrected, and when it does not come to
// answer, set back to its checkpoint.
func (p *Provider) EnsureNode(ctx context.Context, lab provider.Lab, name string) error {
	h, err := p.host(ctx, lab, true)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if name == lab.Topology.Client.Name {
		return client{h, lab}.ensure(ctx, nil)
	}
	node, known := lab.Topology.Nodes[name]
	if !known {
		return fmt.Errorf("%s: the topology has no such machine", name)
	}
	image := h.target.Images.Of(node.OS)
	if image == nil {
		return fmt.Errorf("%s: providers.hyperv.images has none for %s", name, node.OS)
	}
	b := build{host: h, lab: lab, name: name, node: node, image: *image}
	if err := b.ensure(ctx); err != nil {
		return fmt.Errorf("%s (%s): %w", name, node.Address, err)
	}
	return nil
}

func (b *build) ensure(ctx context.Context) error {
	vm, err := b.machine(ctx, b.lab.Topology, b.name)
	if err != nil {
		return err
	}
	if vm == nil || b.p.o.Fresh.Of(b.name) || !slices.Contains(vm.Checkpoints, readyCheckpoint) {
		// Also where there is no machine: its disk may be left of one.
		if err := b.remove(ctx, b.lab, b.name); err != nil {
			return err
		}
		return b.make(ctx)
	}
	b.id = vm.ID
	if changes := b.differences(b.lab, b.name, *vm); len(changes) > 0 {
		return b.change(ctx, *vm)
	}
	return b.revive(ctx)
}

// make makes the machine from nothing.
func (b *build) make(ctx context.Context) error {
	if err := b.disk(ctx); err != nil {
		return err
	}
	dvd, err := b.instruct(ctx)
	if err != nil {
		return err
	}
	if err := b.define(ctx, dvd); err != nil {
		return err
	}
	return b.complete(ctx, false)
}

// change corrects a machine that is set up: off, changed, on, and set up again.
func (b *build) change(ctx context.Context, vm scripts.VMFacts) error {
	if vm.State != "Off" {
		if err := b.stop(ctx, shutdownSeconds); err != nil {
			return err
		}
	}
	dvd := ""
	if b.node.OS == topology.Linux {
		var err error
		if dvd, err = b.uploadSeed(ctx); err != nil {
			return err
		}
	}
	if err := b.define(ctx, dvd); err != nil {
		return err
	}
	return b.complete(ctx, true)
}

// complete starts the machine, sets it up and keeps that as a checkpoint.
func (b *build) complete(ctx context.Context, again bool) error {
	if err := b.start(ctx); err != nil {
		return err
	}
	if err := b.await(ctx, false); err != nil {
		return err
	}
	if err := b.setUp(ctx); err != nil {
		return err
	}
	checkpoint := scripts.CheckpointParams{ID: b.id, Mark: b.mark, Name: readyCheckpoint}
	b.disks.Lock()
	defer b.disks.Unlock()
	if again {
		if _, err := b.verbs.CheckpointRemove.Run(ctx, b.runner, checkpoint); err != nil {
			return b.errorf("remove the checkpoint of the former set-up: %w", err)
		}
	}
	if _, err := b.verbs.CheckpointCreate.Run(ctx, b.runner, checkpoint); err != nil {
		return b.errorf("keep the set-up as a checkpoint: %w", err)
	}
	return nil
}

// revive brings a machine that is as wanted to answer: by turning it on, and
// if that does not help, from its checkpoint.
func (b *build) revive(ctx context.Context) error {
	if err := b.start(ctx); err != nil {
		return err
	}
	err := b.await(ctx, true)
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil {
		b.p.o.Say(fmt.Sprintf("%s does not answer: set back to its checkpoint (%v)", b.name, err))
		if err := b.setBack(ctx); err != nil {
			return err
		}
	}
	return b.setUp(ctx)
}

func (b *build) setBack(ctx context.Context) error {
	if err := b.stop(ctx, 0); err != nil {
		return err
	}
	b.disks.Lock()
	_, err := b.verbs.CheckpointRestore.Run(ctx, b.runner, scripts.CheckpointParams{ID: b.id, Mark: b.mark, Name: readyCheckpoint})
	b.disks.Unlock()
	if err != nil {
		return b.errorf("set it back to its checkpoint: %w", err)
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	return b.await(ctx, false)
}

// disk makes the machine's disk, whose parent is the image.
func (b *build) disk(ctx context.Context) error {
	parent, err := b.parent(ctx)
	if err != nil {
		return err
	}
	b.disks.Lock()
	defer b.disks.Unlock()
	_, err = b.verbs.DiskEnsure.Run(ctx, b.runner, scripts.DiskEnsureParams{Path: b.diskPath(), Parent: parent, Folder: b.folder})
	if err != nil {
		return b.errorf("make its disk from %s: %w", parent, foreign(err))
	}
	return nil
}

func (b *build) diskPath() string { return join(b.folder, "disks", b.name+".vhdx") }

// parent returns the image's path on the host; one of this machine's is uploaded first.
func (b *build) parent(ctx context.Context) (string, error) {
	path := b.image.Path
	if b.image.File != "" {
		path = join(b.folder, "images", base(b.image.File))
		if err := b.upload(ctx, b.image.File, path); err != nil {
			return "", err
		}
	}
	b.disks.Lock()
	defer b.disks.Unlock()
	// Its hash takes minutes: what was uploaded has been checked on the way.
	want := b.image.SHA256
	if b.image.File != "" {
		want = ""
	}
	r, err := b.verbs.ImageProbe.Run(ctx, b.runner, scripts.ImageProbeParams{Path: path, Hash: want != ""})
	switch {
	case err != nil:
		return "", b.errorf("look at the image %s: %w", path, err)
	case !r.Exists:
		return "", b.errorf("there is no image %s; correct providers.hyperv.images.%s.path", path, b.node.OS)
	case want != "" && !strings.EqualFold(r.SHA256, want):
		return "", b.errorf("the image %s is another one: its SHA-256 is %s, the topology has %s", path, r.SHA256, want)
	}
	return path, nil
}

// instruct tells the new machine who it is, by a seed disc whose path is
// returned, or by an answer file on its disk.
func (b *build) instruct(ctx context.Context) (dvd string, err error) {
	if b.node.OS == topology.Linux {
		return b.uploadSeed(ctx)
	}
	login, err := b.p.windowsLogin(ctx, b.lab, b.image)
	if err != nil {
		return "", err
	}
	file, err := answer.File{Computer: b.name, User: login.User, Password: powershell.Password(login.Password)}.Text()
	if err != nil {
		return "", err
	}
	b.disks.Lock()
	defer b.disks.Unlock()
	_, err = b.verbs.UnattendWrite.Run(ctx, b.runner, scripts.UnattendWriteParams{Disk: b.diskPath(), Content: base64.StdEncoding.EncodeToString(file)})
	if err != nil {
		return "", b.errorf("put the answer file onto its disk: %w", err)
	}
	return "", nil
}

func (b *build) uploadSeed(ctx context.Context) (string, error) {
	s, err := b.seedOf(b.lab, b.name)
	if err != nil {
		return "", err
	}
	path := join(b.folder, "seeds", b.name+"-"+s.hash[:12]+".iso")
	return path, b.uploadFrom(ctx, bytes.NewReader(s.content), path)
}

// define makes the machine, or corrects it while it is off.
func (b *build) define(ctx context.Context, dvd string) error {
	secureBoot := "Off"
	if b.image.StartsSigned(b.node.OS) {
		secureBoot = "MicrosoftUEFICertificateAuthority" // the template for Linux; Windows has none here
	}
	r, err := b.verbs.VMEnsure.Run(ctx, b.runner, scripts.VMEnsureParams{
		Name: vmName(b.lab.Topology.Name, b.name), Mark: b.mark, Node: b.name, Folder: b.folder,
		Generation: b.image.Generation, MemoryMB: int64(b.image.MemoryMB), Processors: b.image.CPUs,
		Disk: b.diskPath(), DVD: dvd, Switch: switchName(b.lab.Topology.Name), MAC: macDigits(macOf(b.node.Address)),
		Spoofing: true, SecureBoot: secureBoot,
	})
	if err != nil {
		return b.errorf("make the machine %s: %w", vmName(b.lab.Topology.Name, b.name), foreign(err))
	}
	b.id = r.Machine.ID
	b.remember(b.name, b.id)
	return nil
}

func (b *build) start(ctx context.Context) error {
	_, err := b.verbs.VMStart.Run(ctx, b.runner, scripts.VMParams{ID: b.id, Mark: b.mark})
	if code(err, scripts.NoMemory) {
		return b.errorf("turn it on (%d MB): %w; give the images less memoryMB, or free some on the host", b.image.MemoryMB, err)
	}
	if err != nil {
		return b.errorf("turn it on: %w", err)
	}
	return nil
}

func (b *build) stop(ctx context.Context, seconds int) error {
	if _, err := b.verbs.VMStop.Run(ctx, b.runner, scripts.VMStopParams{ID: b.id, Mark: b.mark, Seconds: seconds}); err != nil {
		return b.errorf("turn it off: %w", err)
	}
	return nil
}
