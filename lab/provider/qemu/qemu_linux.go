package qemu

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"l4lab/lab/guest/ssh"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/netns"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/topology"
)

const (
	// lookLimit bounds looking at one guest: under emulation a key exchange
	// takes seconds, and five of them share the processors.
	lookLimit = 30 * time.Second
	// answerLimit is how long the probe's client may wait for an answer.
	answerLimit = 15 * time.Second
	// transferBytes is the size of the probe's large transfers. Each byte is captured
	// in guests, too, and fetched from there over SSH, which an emulated processor
	// encrypts.
	transferBytes = 1 << 20
)

// Options say what machines are made of.
type Options struct {
	// Images is where images are.
	Images image.Store
	// Program is lbagent for Linux, which guests get, WindowsProgram lbagent.exe, which
	// real Windows guests get; FirstBoot is the first-boot program of images that are
	// built when they are needed.
	Program, WindowsProgram, FirstBoot string
	// SetUps is the folder where the states of labs are kept that were brought up,
	// with the keys of their guests; "": nowhere.
	SetUps string
	// Fresh are the existing machines that are made anew instead of being mended.
	Fresh provider.Fresh
	// Say, when not nil, is told what takes long.
	Say func(text string)
	// Limits bound the waits; zero fields have defaults.
	Limits Limits
}

// Limits bound how long a machine may take.
type Limits struct {
	// Boot from its start until it answers SSH, Revive until one that ran before
	// answers; then it is started again.
	Boot, Revive time.Duration
	// Windows is Boot for a real Windows guest, and bounds each of its restarts; 0 is
	// half an hour, or Boot where that is longer: the first start after sysprep takes
	// minutes (Lima allows 30).
	Windows time.Duration
	// Refused is how long a Windows guest that starts may refuse labctl: it serves WinRM
	// a moment before its administrator has his password.
	Refused time.Duration
	// Pause is between two looks at a Windows guest; 0: 1 s.
	Pause time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.Windows <= 0 {
		l.Windows = max(l.Boot, 30*time.Minute)
	}
	if l.Pause <= 0 {
		l.Pause = time.Second
	}
	if l.Refused <= 0 {
		l.Refused = 3 * time.Minute
	}
	if l.Boot <= 0 {
		l.Boot = 8 * time.Minute
	}
	if l.Revive <= 0 {
		l.Revive = 45 * time.Second
	}
	return l
}

// Provider implements provider.Provider.
type Provider struct {
	o Options
	// base has the switch and the client.
	base  provider.Provider
	accel func() (acceleration, error)

	mu     sync.Mutex
	guests map[string]*ssh.Guest
	// windows are the ways into real Windows guests.
	windows map[string]*windowsGuest
	// images are those found so far, by name.
	images map[string]image.Image
	// made are the nodes that were made from nothing, by the folders of their labs;
	// kept are the labs whose set-up was looked at since.
	made map[string]map[string]bool
	kept map[string]bool
	// building is held while an image is looked for, and built.
	building sync.Mutex
}

// acceleration is how guests' instructions are run here.
type acceleration struct {
	vm.Accel
	// why it is not the faster one.
	why string
}

var (
	_ provider.Provider    = (*Provider)(nil)
	_ provider.Keeper      = (*Provider)(nil)
	_ provider.SetUpKeeper = (*Provider)(nil)
)

// New returns the provider. Nothing is started yet.
func New(o Options) *Provider {
	if o.Say == nil {
		o.Say = func(string) {}
	}
	o.Limits = o.Limits.withDefaults()
	return &Provider{
		o: o, base: netns.New().Provider, guests: map[string]*ssh.Guest{}, windows: map[string]*windowsGuest{}, images: map[string]image.Image{}, made: map[string]map[string]bool{}, kept: map[string]bool{},
		accel: sync.OnceValues(func() (acceleration, error) {
			ctx, cancel := context.WithTimeout(context.Background(), probeLimit)
			defer cancel()
			a, why, err := vm.Probe(ctx, "")
			return acceleration{a, why}, err
		}),
	}
}

// probeLimit bounds the start of the guest that shows whether KVM works.
const probeLimit = 30 * time.Second

// Driver returns the provider with its name and what it can do.
func (p *Provider) Driver() provider.Driver {
	return provider.Driver{
		Name: Name,
		Capabilities: provider.Capabilities{
			Emulates: []topology.OS{topology.Windows}, Real: hasImage, MaxMTU: fabric.MaxMTU,
			Look: lookLimit, Answer: answerLimit, Transfer: transferBytes,
		},
		Provider: p,
	}
}

// hasImage says whether nodes of a system run it, since the topology names an image.
func hasImage(t topology.Topology, os topology.OS) bool {
	return os == topology.Windows && topology.FilledQEMU(t.Providers.QEMU).Images.Windows != ""
}

// Close ends the connections to guests.
func (p *Provider) Close(ctx context.Context) error {
	p.mu.Lock()
	guests, windows := p.guests, p.windows
	p.guests, p.windows = map[string]*ssh.Guest{}, map[string]*windowsGuest{}
	p.mu.Unlock()
	var errs *multierror.Error
	for _, w := range windows {
		errs = multierror.Append(errs, w.runner.Close(ctx))
	}
	for _, g := range guests {
		if err := g.Close(); !errors.Is(err, ssh.ErrClosed) {
			errs = multierror.Append(errs, err)
		}
	}
	return errs.ErrorOrNil()
}

// EnsureSwitch implements provider.Provider.
func (p *Provider) EnsureSwitch(ctx context.Context, lab provider.Lab) error {
	return p.base.EnsureSwitch(ctx, lab)
}

// RemoveNode implements provider.Provider. What runs for a node bears its folder's
// name in its environment, and so ends with it, QEMU too.
func (p *Provider) RemoveNode(ctx context.Context, lab provider.Lab, name string) error {
	p.drop(lab, name)
	return p.base.RemoveNode(ctx, lab, name)
}

// Destroy implements provider.Provider.
func (p *Provider) Destroy(ctx context.Context, lab provider.Lab) error {
	for _, name := range lab.Topology.NodeNames() {
		p.drop(lab, name)
	}
	p.mu.Lock()
	delete(p.made, lab.Dir)
	delete(p.kept, lab.Dir)
	p.mu.Unlock()
	return p.base.Destroy(ctx, lab)
}
