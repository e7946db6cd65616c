package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/lab/guest/seed"
	"l4lab/lab/guest/seed/apply"
)

// InstanceFile has the id of the seed that was applied as a whole.
const InstanceFile = "/var/lib/l4lab/instance"

// DefaultWait is how long the disc may take to appear: an emulated machine
// that shares its processor with four others is slow to find its devices.
const DefaultWait = 30 * time.Second

// waitAgain is how long it may take once a seed was applied: a Hyper-V lab takes
// the disc out after the set-up, and the drive may be empty for good.
const waitAgain = 10 * time.Second

// commandLimit is how long a boot command may take.
const commandLimit = time.Minute

// Boot is one boot of a machine.
type Boot struct {
	// Machine is what the seed is applied to.
	Machine apply.Machine
	Log     *slog.Logger
	// Devices is where the kernel lists block devices, Nodes where their files are.
	Devices, Nodes string
	// Wait is how long the disc may take to appear.
	Wait time.Duration
	// Run runs a boot command.
	Run func(ctx context.Context, argv []string) error
	// Sync brings to the disk what was written.
	Sync func()
}

// Here is the boot of the machine that this process runs on.
func Here(log *slog.Logger, wait time.Duration) Boot {
	return Boot{
		Machine: apply.Here(log), Log: log, Devices: "/sys/class/block", Nodes: "/dev", Wait: wait,
		Run: runCommand, Sync: unix.Sync,
	}
}

// Apply finds the seed's disc and applies it. Of what fails it returns all.
func (b Boot) Apply(ctx context.Context) error {
	before := b.instance()
	if before != "" {
		b.Wait = min(b.Wait, waitAgain)
	}
	path, err := b.findDisc(ctx)
	if errors.Is(err, ErrNoDisc) && before != "" && ctx.Err() == nil {
		b.Log.Info("the disc of the seed that an earlier boot applied is gone", "instance", before)
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the seed's disc: %w", err)
	}
	contents, err := readDisc(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	id := contents.MetaData.InstanceID
	p, err := planOf(contents)
	if err != nil {
		return fmt.Errorf("%s: the seed %q is not applied: %w", path, id, err)
	}
	commands := b.runCommands(ctx, contents.UserData.BootCommands)
	if before == id {
		b.Log.Info("the seed was applied by an earlier boot", "disc", path, "instance", id)
		return commands
	}
	b.Log.Info("applying the seed", "disc", path, "instance", id)
	if err := errors.Join(b.forgetInstance(), b.applyOnce(p)); err != nil {
		return errors.Join(commands, fmt.Errorf("apply the seed %s: %w; the next boot tries again", id, err))
	}
	return errors.Join(commands, b.remember(id))
}

func readDisc(path string) (seed.Contents, error) {
	disc, err := os.Open(path)
	if err != nil {
		return seed.Contents{}, err
	}
	defer disc.Close()
	return seed.Read(disc)
}

func (b Boot) applyOnce(p plan) error {
	m := b.Machine
	var errs []error
	for _, f := range p.files {
		errs = append(errs, m.WriteFile(f))
	}
	if p.hostname != "" {
		errs = append(errs, m.SetHostname(p.hostname))
	}
	errs = append(errs, m.AddUsers(p.users), m.InstallHostKeys(p.hostKeys))
	if p.deleteHostKeys {
		errs = append(errs, m.RemoveOtherHostKeys(p.hostKeys))
	}
	return errors.Join(append(errs, b.writeNetwork(p.networks))...)
}

// instance is the id of the seed that was applied last, "" for none.
func (b Boot) instance() string {
	text, err := os.ReadFile(filepath.Join(b.Machine.Root, InstanceFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// forgetInstance is for the machine that has two seeds in turn: half of the
// second is not the first.
func (b Boot) forgetInstance() error {
	err := os.Remove(filepath.Join(b.Machine.Root, InstanceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (b Boot) remember(id string) error {
	b.Sync()
	err := b.Machine.WriteFile(apply.File{Path: InstanceFile, Data: []byte(id + "\n"), Mode: 0o644})
	if err != nil {
		return fmt.Errorf("remember that the seed %s is applied: %w", id, err)
	}
	b.Sync()
	return nil
}

func (b Boot) runCommands(ctx context.Context, commands [][]string) error {
	var errs []error
	for _, argv := range commands {
		b.Log.Info("boot command", "argv", argv)
		ctx, cancel := context.WithTimeout(ctx, commandLimit)
		if err := b.Run(ctx, argv); err != nil {
			errs = append(errs, fmt.Errorf("boot command %q: %w", argv, err))
		}
		cancel()
	}
	return errors.Join(errs...)
}

func runCommand(ctx context.Context, argv []string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second // a child of it may keep its output open
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %.500s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
