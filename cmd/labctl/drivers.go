package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"l4lab/lab"
	"l4lab/lab/drivers"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/simhost"
)

// drivers are the providers at hand, the default one first.
func (a *app) drivers(programs lab.Programs) []provider.Driver {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	first, err := firstBoot()
	if err != nil {
		first = "" // it is asked for when an image is built
	}
	set := drivers.New(drivers.Options{
		Labctl: self, Programs: programs, FirstBoot: first, Ask: a.ask, Say: a.say, Fresh: a.fresh, BootLimit: a.bootLimit, Guests: a.guests, Faults: a.faults,
	})
	a.closers = append(a.closers, set.Close)
	return set.Drivers
}

// machineFlags are what bringing virtual machines up takes.
func (a *app) machineFlags(f *pflag.FlagSet) {
	f.BoolVar(&a.fresh.All, "fresh", false, "make all virtual machines anew instead of mending them")
	f.DurationVar(&a.bootLimit, "boot-limit", 0, "how long a virtual machine on this computer may take to boot (default 8m; a real Windows guest 30m)")
	a.guestsFlag(f)
	f.StringArrayVar(&a.faults, "sim-fault", nil, "what goes wrong on the simulated host that hyperv-sim starts (see labctl hvsim --help)")
}

// guestsFlag is what a simulated host is asked for.
func (a *app) guestsFlag(f *pflag.FlagSet) {
	f.Var(choose(&a.guests, "", simhost.Namespaces, simhost.QEMU), "guests",
		"what Linux nodes of provider hyperv-sim are: netns, namespaces that stand for machines, or qemu, virtual machines that boot "+
			"from the disk and the seed that labctl makes for Hyper-V (default: the lab's own, or netns)")
}

// checkGuests refuses to ask for guests where no host is simulated: who asks for them
// without a provider means that one.
func (a *app) checkGuests(provider *string) error {
	if a.guests == "" {
		return nil
	}
	if *provider == "" {
		*provider = simhost.Name
	}
	if *provider != simhost.Name {
		return usageError{fmt.Errorf("--guests is for provider %s, not %s", simhost.Name, *provider)}
	}
	return nil
}

// say tells what takes long.
func (a *app) say(text string) { fmt.Fprintf(a.stderr, "  … %s\n", text) }

// ask asks for a secret at the terminal, where it is not shown. An interrupt
// ends the question, which reading would outlast, and gives the terminal back.
func (a *app) ask(ctx context.Context, what string) (string, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", errors.New("there is no terminal to ask at: name passwordEnv or passwordFile in the topology")
	}
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", err
	}
	fmt.Fprint(a.stderr, what+": ")
	defer fmt.Fprintln(a.stderr)
	type answer struct {
		secret []byte
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		secret, err := term.ReadPassword(int(f.Fd()))
		answered <- answer{secret, err}
	}()
	select {
	case got := <-answered:
		return string(got.secret), got.err
	case <-ctx.Done():
		return "", errors.Join(context.Cause(ctx), term.Restore(int(f.Fd()), before))
	}
}
