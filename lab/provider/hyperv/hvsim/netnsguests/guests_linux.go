package netnsguests

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/hyperv/hvsim/netnsguests/guestinit"
	"l4lab/lab/role/windows/guestscripts"
)

// Guests implements hvsim.Guests.
type Guests struct {
	options Options
	log     *slog.Logger
	verbs   map[string]verb
	unlock  func()

	mu       sync.Mutex
	switches map[string]*segment
	machines map[string]*guest
	// outside are the machines of others that are connected.
	outside map[string]hvsim.Machine
	// recordings are the captures that run.
	recordings map[*recording]bool
	lastSwitch int
	closed     bool
}

var _ hvsim.Guests = (*Guests)(nil)

var instanceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,7}$`)

// maxMark is how many bytes an interface's alias holds (IFALIASZ without its 0).
const maxMark = 255

// New prepares the guests of one simulated host, once what an earlier instance
// with the same folder left is gone; Close ends them. It needs root.
func New(ctx context.Context, o Options) (*Guests, error) {
	if err := validate(&o); err != nil {
		return nil, fmt.Errorf("simulated guests: %w", err)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("simulated guests: %w", err)
	}
	unlock, err := lock(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("simulated guests: %w", err)
	}
	g := &Guests{
		options: o, log: o.Log, unlock: unlock, verbs: windowsVerbs(guestscripts.New()),
		switches: map[string]*segment{}, machines: map[string]*guest{}, outside: map[string]hvsim.Machine{}, recordings: map[*recording]bool{},
	}
	err = g.sweep(ctx)
	if err == nil {
		err = fabric.EnsureRunDir(ctx, o.Dir)
	}
	if err == nil {
		err = g.makeHost(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("simulated guests: %w", errors.Join(err, g.Close(ctx)))
	}
	return g, nil
}

func validate(o *Options) error {
	if os.Geteuid() != 0 {
		return errors.New("guests with network namespaces need root")
	}
	if !instanceName.MatchString(o.Name) {
		return fmt.Errorf("name %q: want 1 to 8 letters, digits or dashes", o.Name)
	}
	if len(o.Self) == 0 {
		return errors.New("the command line of their first process is missing")
	}
	for _, path := range []*string{&o.Dir, &o.Self[0], &o.Program} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err == nil {
			absolute, err = resolve(absolute)
		}
		if err != nil {
			return err
		}
		*path = absolute
	}
	if longest := markOf(o.Dir, strings.Repeat("x", 40)); len(longest) > maxMark {
		return fmt.Errorf("the folder's path is too long for an ownership mark (%d of %d bytes): %s", len(longest), maxMark, o.Dir)
	}
	if o.Faults == nil {
		o.Faults = func(string) Faults { return Faults{} }
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return nil
}

// resolve follows links as far as there is something: mounts name real paths.
func resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return path, nil
	}
	return real, err
}

// lock keeps other instances from the folder for as long as this process lives.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another simulated host uses %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// markOf is what the loopback of a namespace of the instance's bears.
func markOf(dir, what string) string { return "hvsim " + dir + " " + what }

// prefix begins the names of the instance's namespaces. It follows from the
// folder, too, so that two simulated hosts need not know of one another.
func (g *Guests) prefix() string {
	sum := sha256.Sum256([]byte(g.options.Dir))
	return g.options.Name + hex.EncodeToString(sum[:3])
}

func (g *Guests) namespaceName(what string) string { return g.prefix() + "-" + what }

// path is a path in the instance's folder.
func (g *Guests) path(parts ...string) string {
	return filepath.Join(append([]string{g.options.Dir}, parts...)...)
}

// sweep ends and removes all that bears the instance's mark.
func (g *Guests) sweep(ctx context.Context) error {
	var errs *multierror.Error
	errs = multierror.Append(errs, fabric.EndAll(ctx, func(pid int) bool {
		return pid != os.Getpid() && fabric.Environment(pid, guestinit.Mark) == g.options.Dir
	}))
	names, err := fabric.Names(g.prefix())
	errs = multierror.Append(errs, err)
	for _, name := range names {
		errs = multierror.Append(errs, g.removeIfOwn(name))
	}
	errs = multierror.Append(errs, unmountBelow(g.options.Dir))
	for _, dir := range []string{"machines", "disks"} {
		errs = multierror.Append(errs, os.RemoveAll(g.path(dir)))
	}
	return errs.ErrorOrNil()
}

func (g *Guests) removeIfOwn(name string) error {
	ns, err := fabric.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mark, err := ns.Mark()
	ns.Close()
	if err != nil || !strings.HasPrefix(mark, markOf(g.options.Dir, "")) {
		return err
	}
	return fabric.Delete(name)
}

// unmountBelow unmounts all that is mounted below a folder.
func unmountBelow(dir string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs *multierror.Error
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(fields[4])
		if strings.HasPrefix(at, dir+"/") {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				errs = multierror.Append(errs, fmt.Errorf("unmount %s: %w", at, err))
			}
		}
	}
	return errs.ErrorOrNil()
}

// Close implements hvsim.Guests. The machines' disks stay where the model put
// them.
func (g *Guests) Close(ctx context.Context) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	var running []*guest
	for _, m := range g.machines {
		running = append(running, m)
	}
	g.mu.Unlock()
	var errs *multierror.Error
	for _, m := range running {
		errs = multierror.Append(errs, m.stop(ctx, false))
	}
	errs = multierror.Append(errs, g.abandonRecordings(), g.sweep(ctx), fabric.ReleaseRunDir(ctx, g.options.Dir))
	g.unlock()
	return errs.ErrorOrNil()
}

// GuestMain is the first process of a machine and the machine's stand-ins for
// systemctl and the like; it returns the exit code.
func GuestMain(args []string) int { return guestinit.Main(args) }
