// Package lab brings a topology to life and back: plan, up, down, status, and
// the ways into a running lab. It is the library behind every command of
// labctl; the end-to-end suite drives it directly.
//
// A Lab is a handle by name. Nothing is read or made until a method is called.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/plan"
	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

// Options are what every lab of a process shares.
type Options struct {
	Store state.Store
	// Drivers are the providers at hand; the first is the default.
	Drivers []provider.Driver
	// Programs are the lbagent binaries that are pushed to nodes.
	Programs Programs
	// Listen receives every event; nil: nobody does.
	Listen func(Event)
}

// Event is one thing that happened to a lab.
type Event struct {
	Time  time.Time `json:"time"`
	Lab   string    `json:"lab"`
	Phase string    `json:"phase"`
	Step  string    `json:"step,omitempty"`
	// Action and Reason are the step's in the plan.
	Action plan.Action `json:"action,omitempty"`
	Reason string      `json:"reason,omitempty"`
	// Seconds is how long the phase took.
	Seconds float64 `json:"seconds,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// ErrNotUp is matched by errors about a lab that is not there.
var ErrNotUp = errors.New("lab is not up")

// ErrUnknownProvider is matched by errors about a provider's name.
var ErrUnknownProvider = errors.New("unknown provider")

// Lab is a handle on one lab.
type Lab struct {
	name    string
	options Options
}

// Open returns the handle of a lab; it need not exist.
func Open(name string, o Options) *Lab {
	if o.Listen == nil {
		o.Listen = func(Event) {}
	}
	return &Lab{name: name, options: o}
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.name }

// Dir returns the lab's folder.
func (l *Lab) Dir() string { return l.options.Store.Dir(l.name) }

// All returns the names of the labs that are remembered.
func All(o Options) ([]string, error) { return o.Store.Labs() }

func (l *Lab) driver(name string) (provider.Driver, error) {
	if name == "" {
		return l.options.Drivers[0], nil
	}
	var names []string
	for _, d := range l.options.Drivers {
		if d.Name == name {
			return d, nil
		}
		names = append(names, d.Name)
	}
	return provider.Driver{}, fmt.Errorf("%w: %q; there is %s", ErrUnknownProvider, name, strings.Join(names, ", "))
}

// running is a lab that is remembered, with its provider.
type running struct {
	state  state.State
	driver provider.Driver
	lab    provider.Lab
}

// load returns the remembered lab: ErrNotUp when there is none.
func (l *Lab) load() (running, error) {
	st, err := l.options.Store.Load(l.name)
	if errors.Is(err, state.ErrNone) {
		return running{}, fmt.Errorf("%w: %s; bring it up with `labctl up --name %s`", ErrNotUp, l.name, l.name)
	}
	if err != nil {
		return running{}, err
	}
	d, err := l.driver(st.Provider)
	if err != nil {
		return running{}, fmt.Errorf("lab %s: %w", l.name, err)
	}
	return running{st, d, provider.Lab{Topology: st.Topology, Dir: l.Dir()}}, nil
}

// Topology returns the topology of the lab that is up.
func (l *Lab) Topology() (topology.Topology, error) {
	r, err := l.load()
	return r.state.Topology, err
}

// Machine returns the way into a machine of a lab that is up.
func (l *Lab) Machine(name string) (provider.Machine, error) {
	r, err := l.load()
	if err != nil {
		return provider.Machine{}, err
	}
	return r.driver.Machine(r.lab, name)
}

// Agent returns a client of the balancer's agent.
func (l *Lab) Agent() (*api.Client, error) {
	r, err := l.load()
	if err != nil {
		return nil, err
	}
	return agentOf(r.driver, r.lab)
}

func agentOf(d provider.Driver, pl provider.Lab) (*api.Client, error) {
	m, err := d.Machine(pl, pl.Topology.LoadBalancer())
	if err != nil {
		return nil, err
	}
	return api.NewClient(func(ctx context.Context) (net.Conn, error) {
		return m.Guest.Dial(ctx, "unix", "", "agent.sock")
	}), nil
}

// Mode switches one service (0: all) of a running lab, and remembers it, so
// that the next up does not switch back.
func (l *Lab) Mode(ctx context.Context, service uint32, mode topology.Mode) error {
	lock, err := l.options.Store.Lock(ctx, l.name)
	if err != nil {
		return err
	}
	defer lock.Release()
	r, err := l.load()
	if err != nil {
		l.forget(work{})
		return err
	}
	if service != 0 && !slices.ContainsFunc(r.state.Topology.Services, func(s topology.Service) bool { return s.ID == service }) {
		return fmt.Errorf("lab %s has no service %d", l.name, service)
	}
	agent, err := agentOf(r.driver, r.lab)
	if err != nil {
		return err
	}
	lb := r.state.Topology.LoadBalancer()
	if err := agent.SetMode(ctx, api.ModeUpdate{Mode: string(mode), ServiceID: service}); err != nil {
		return fmt.Errorf("%s (%s): switch to %s: %w", lb, r.state.Topology.Nodes[lb].Address, mode, err)
	}
	for i, s := range r.state.Topology.Services {
		if service == 0 || s.ID == service {
			r.state.Topology.Services[i].Mode = mode
		}
	}
	return l.options.Store.Save(r.state)
}

// logger is a role.System whose daemons leave something to read.
type logger interface {
	// Logs opens what the machine's daemons wrote, by the daemon's name: "agent",
	// "web", "decap".
	Logs(ctx context.Context) (map[string]io.ReadCloser, error)
}

// Logs opens what a machine's daemons wrote, by the daemon's name: "agent",
// "web", "decap". A machine that runs none has none.
func (l *Lab) Logs(ctx context.Context, machine string) (map[string]io.ReadCloser, error) {
	m, err := l.Machine(machine)
	if err != nil {
		return nil, err
	}
	system, ok := m.System.(logger)
	if !ok {
		return nil, nil
	}
	return system.Logs(ctx)
}
