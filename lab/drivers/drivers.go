// Package drivers is the list of providers that labctl has. The commands and the
// end-to-end suite take it from here, so that both mean the same by a name.
package drivers

import (
	"context"
	"errors"
	"runtime"
	"time"

	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv"
	"l4lab/lab/provider/hyperv/simhost"
	"l4lab/lab/provider/netns"
	"l4lab/topology"
)

// Options say what providers are made of.
type Options struct {
	// Labctl is the path of labctl, which runs simulated hosts.
	Labctl string
	// FirstBoot is the program that makes a machine of an image that is built.
	FirstBoot string
	// Programs are the lbagent binaries that nodes get.
	Programs lab.Programs
	// Ask asks the user for a secret; nil: nobody can be asked.
	Ask func(ctx context.Context, what string) (string, error)
	// Say, when not nil, is told what takes long.
	Say func(text string)
	// Fresh are the virtual machines that are made anew instead of being mended.
	Fresh provider.Fresh
	// BootLimit is how long a virtual machine of this one may take to boot; 0: the provider's default.
	BootLimit time.Duration
	// Guests is what Linux machines of simulated hosts are: see simhost.Options.
	Guests string
	// Faults go wrong on simulated hosts that are started.
	Faults []string
}

// Set is the providers at hand.
type Set struct {
	// Drivers has the default one first.
	Drivers []provider.Driver
	closers []func(context.Context) error
}

// New returns the providers of this operating system. Nobody is contacted yet.
func New(o Options) *Set {
	host := hyperv.New(hyperv.Options{Programs: o.Programs, Ask: o.Ask, Fresh: o.Fresh, Say: o.Say})
	if runtime.GOOS != "linux" {
		return &Set{Drivers: []provider.Driver{host.Driver()}, closers: []func(context.Context) error{host.Close}}
	}
	flags := []string{"--boot-time", "100ms", "--agent", o.Programs[topology.Linux]}
	for _, f := range o.Faults {
		flags = append(flags, "--fault", f)
	}
	sim := simhost.Options{Command: []string{o.Labctl, "hvsim"}, Flags: flags, Guests: o.Guests, BootLimit: o.BootLimit}
	addLinuxDisk(&sim, o)
	hosts := simhost.New(sim)
	// Simulated machines boot in a moment, or never.
	limits := hyperv.Limits{
		Running: 20 * time.Second, Heartbeat: 30 * time.Second, SSH: 30 * time.Second, Direct: 30 * time.Second,
		Restart: 30 * time.Second, Revive: 10 * time.Second, Pause: 100 * time.Millisecond,
	}
	if len(o.Faults) > 0 {
		// Who has machines hang waits for nothing.
		limits.Heartbeat, limits.Restart = 10*time.Second, 10*time.Second
	}
	simulated := hyperv.New(hyperv.Options{
		Name: simhost.Name, Simulated: true, Programs: o.Programs, Find: hosts.Find, Release: hosts.Release, Local: hosts.Local,
		Fresh: o.Fresh, Say: o.Say, Limits: limits,
	})
	set := &Set{
		Drivers: []provider.Driver{netns.New(), host.Driver(), simulated.Driver()},
		closers: []func(context.Context) error{host.Close, simulated.Close},
	}
	set.addMachines(o)
	return set
}

// Close ends what providers keep open: shells on hosts, connections to guests.
func (s *Set) Close(ctx context.Context) error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c(ctx))
	}
	return errors.Join(errs...)
}
