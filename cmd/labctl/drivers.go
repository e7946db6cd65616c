package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv"
	"l4lab/lab/provider/hyperv/simhost"
	"l4lab/lab/provider/netns"
)

// drivers are the providers at hand, the default one first.
func (a *app) drivers(programs lab.Programs) []provider.Driver {
	real := hyperv.New(hyperv.Options{Programs: programs, Ask: a.ask, Fresh: a.fresh, Say: a.say})
	a.closers = append(a.closers, real.Close)
	if runtime.GOOS != "linux" {
		return []provider.Driver{real.Driver()}
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	flags := []string{"--boot-time", "100ms", "--agent", programs["linux"]}
	for _, f := range a.faults {
		flags = append(flags, "--fault", f)
	}
	hosts := simhost.New(simhost.Options{Command: []string{self, "hvsim"}, Flags: flags})
	// Simulated machines boot in a moment, or never.
	limits := hyperv.Limits{
		Running: 20 * time.Second, Heartbeat: 30 * time.Second, SSH: 30 * time.Second, Direct: 30 * time.Second,
		Restart: 30 * time.Second, Revive: 20 * time.Second, Pause: 100 * time.Millisecond,
	}
	simulated := hyperv.New(hyperv.Options{
		Name: simhost.Name, Simulated: true, Programs: programs, Find: hosts.Find, Release: hosts.Release, Local: hosts.Local,
		Fresh: a.fresh, Say: a.say, Limits: limits,
	})
	a.closers = append(a.closers, simulated.Close)
	return []provider.Driver{netns.New(), real.Driver(), simulated.Driver()}
}

// hypervFlags are what bringing machines up on a Hyper-V host takes.
func (a *app) hypervFlags(f *pflag.FlagSet) {
	f.BoolVar(&a.fresh, "fresh", false, "make machines on a Hyper-V host anew instead of mending them")
	f.StringArrayVar(&a.faults, "sim-fault", nil, "what goes wrong on the simulated host that hyperv-sim starts (see labctl hvsim --help)")
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
