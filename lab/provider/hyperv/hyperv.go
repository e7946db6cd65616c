// Package hyperv provides labs on a Hyper-V host: an internal switch on which the
// host's own adapter is the lab's client, and a virtual machine for each node,
// made from an image by a differencing disk and a seed or an answer file.
//
//	p := hyperv.New(hyperv.Options{Name: "hyperv", Programs: programs})
//	defer p.Close(ctx)
//	err := p.EnsureSwitch(ctx, lab)
//
// What is done on the host is done by the verbs of package scripts over one
// powershell.Runner; Linux guests are reached by SSH, Windows guests by
// PowerShell Direct. Everything that is made bears the lab's mark, and nothing
// that lacks it is changed or removed.
//
// A host is contacted only for labs that were made on one: which host it is
// stands in the lab's topology and, for a lab whose state is damaged, in a record
// in its folder.
package hyperv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"l4lab/lab/guest/keys"
	"l4lab/lab/powershell"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

// Name is the provider's name in --provider.
const Name = "hyperv"

// maxMTU is the largest MTU of the lab: XDP for Windows and eBPF for Windows take
// no frames larger than a page less their own room; 3506 is what Linux guests
// take, too (package netns).
const maxMTU = 3506

// ErrNoHost: nothing says on which host a lab is, so that it is on none.
var ErrNoHost = errors.New("no Hyper-V host is known for the lab")

// answerLimit is how long the probe's client may wait for an answer. Each of its
// connections is a command of its own on the host, over WinRM.
const answerLimit = 15 * time.Second

// transferBytes is the size of the probe's large transfers. A byte of them is
// captured at eight places and fetched from there over WinRM, at a few MB a
// second: 10 MiB each way are minutes of waiting that prove nothing that 1 MiB,
// some 750 full frames, does not.
const transferBytes = 1 << 20

// Options say how to come to hosts.
type Options struct {
	Name string
	// Simulated says that the hosts are no real ones.
	Simulated bool
	// Programs are the lbagent binaries by operating system.
	Programs map[topology.OS]string
	// Find returns a lab's host; nil: the one that its topology or its record
	// names. With make set, a host that does not run yet is started.
	Find func(ctx context.Context, lab provider.Lab, make bool) (Target, error)
	// Release is called when all of a lab has been removed from its host.
	Release func(ctx context.Context, lab provider.Lab) error
	// Local returns what this machine lacks besides the host; nil: nothing.
	Local func(lab provider.Lab) []provider.Requirement
	// Ask asks the user for a secret; nil: nobody can be asked.
	Ask func(ctx context.Context, what string) (string, error)
	// Connect and OnHost make runners; nil: powershell's.
	Connect func(ctx context.Context, e powershell.Endpoint) (powershell.Runner, error)
	OnHost  func() powershell.Runner
	// Fresh are the existing machines that are made anew instead of being mended.
	Fresh provider.Fresh
	// Say, when not nil, is told what takes long.
	Say func(text string)
	// Limits bound the waits; zero fields have defaults.
	Limits Limits
}

// Limits bound how long a machine may take.
type Limits struct {
	// Running from its start, Heartbeat from then on until Hyper-V hears of it.
	Running, Heartbeat time.Duration
	// SSH and Direct until a Linux or a Windows guest answers: the first start
	// of a Windows image after sysprep takes minutes (Lima allows 30).
	SSH, Direct time.Duration
	// Restart until a guest answers again from another start, Revive until one
	// that was ready before is ready again; then its checkpoint is restored.
	Restart, Revive time.Duration
	// Pause is between two looks.
	Pause time.Duration
}

func (l Limits) withDefaults() Limits {
	return l.or(Limits{
		Running: 2 * time.Minute, Heartbeat: 10 * time.Minute, SSH: 10 * time.Minute, Direct: 30 * time.Minute,
		Restart: 15 * time.Minute, Revive: 3 * time.Minute, Pause: time.Second,
	})
}

// or returns the limits with those of others for what is zero.
func (l Limits) or(others Limits) Limits {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&l.Running, others.Running}, {&l.Heartbeat, others.Heartbeat}, {&l.SSH, others.SSH}, {&l.Direct, others.Direct},
		{&l.Restart, others.Restart}, {&l.Revive, others.Revive}, {&l.Pause, others.Pause},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	return l
}

// Target is a host with what labs on it are made of.
type Target struct {
	topology.HyperV
	// Jump is the host's SSH server; nil: port 22 of the host, whose key is
	// fetched over WinRM, with WinRM's user and password.
	Jump *Jump
	// Limits bound the waits on this host where they are not zero, in place of
	// the provider's.
	Limits Limits
}

// Jump is an SSH server that leads to the guests.
type Jump struct {
	// Address is HOST:PORT.
	Address, User, HostKey string
	Key                    keys.Key
}

// Provider implements provider.Provider.
type Provider struct {
	o     Options
	verbs scripts.Verbs

	mu    sync.Mutex
	hosts map[string]*logon
}

var (
	_ provider.Provider = (*Provider)(nil)
	_ provider.Blind    = (*Provider)(nil)
)

// New returns the provider. It contacts nobody yet.
func New(o Options) *Provider {
	if o.Name == "" {
		o.Name = Name
	}
	if o.Find == nil {
		o.Find = fromTopology
	}
	if o.Release == nil {
		o.Release = func(context.Context, provider.Lab) error { return nil }
	}
	if o.Local == nil {
		o.Local = func(provider.Lab) []provider.Requirement { return nil }
	}
	if o.Connect == nil {
		o.Connect = powershell.Connect
	}
	if o.OnHost == nil {
		o.OnHost = func() powershell.Runner { return powershell.Local(powershell.LocalOptions{}) }
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	o.Limits = o.Limits.withDefaults()
	return &Provider{o: o, verbs: scripts.New(), hosts: map[string]*logon{}}
}

// Driver returns the provider with its name and what it can do.
func (p *Provider) Driver() provider.Driver {
	return provider.Driver{
		Name: p.o.Name,
		Capabilities: provider.Capabilities{
			Client: topology.Windows, MaxMTU: maxMTU, Look: lookLimit, Answer: answerLimit, Transfer: transferBytes, Simulated: p.o.Simulated,
		},
		Provider: p,
	}
}

// Close ends what is kept open: connections, and the hosts' shells.
func (p *Provider) Close(ctx context.Context) error {
	p.mu.Lock()
	hosts := p.hosts
	p.hosts = map[string]*logon{}
	p.mu.Unlock()
	var errs *multierror.Error
	for _, h := range hosts {
		errs = multierror.Append(errs, h.close(ctx))
	}
	return errs.ErrorOrNil()
}

// Unseen implements provider.Blind.
func (p *Provider) Unseen(lab provider.Lab) string {
	_, err := p.o.Find(context.Background(), lab, false)
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrNoHost):
		return fmt.Sprintf("whether lab %s has anything on a Hyper-V host cannot be looked at: none is on record; there it would bear the mark %q", lab.Topology.Name, markOf(lab))
	}
	return err.Error()
}
