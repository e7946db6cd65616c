// Package demo is the walk-through that the eBPF for Windows team showed in
// February 2022, in its order and with its command lines: the lab, the agent's
// start, the service, the page, the connection table, a forced refresh that
// lands on another backend, the packets, the switch to direct server return. Then
// comes what the original could not show: the mode switched, a backend stopped and
// one drained under load, every path proved from packets, and figures.
//
// Run fills a Record, step by step. Who wants to see the steps as they happen
// gives it an Observer, as Narration is; a report is made from the Record.
// Each step says what the authors saw and what was seen here, and has checks; the
// walk goes on after a check that did not hold.
package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/probe/oracle"
	"l4lab/lab/provider"
	"l4lab/topology"
)

// ErrCross is returned when a step did not see what it expected.
var ErrCross = errors.New("not everything was as it should be; see the steps with a cross")

// ErrNoPage is returned for a topology in which there is nothing to walk through.
var ErrNoPage = errors.New("the walk-through asks for a page: the topology needs a TCP service")

// Run brings the lab up from the topology, in SNAT mode first as the demo did,
// and walks through it. It says whether it made the lab, which stays up, and
// returns what was seen as far as it came. The error matches ErrCross when a
// check did not hold; what a step cannot do is such a check, too. Only a lab that
// does not come up and the end of the context end the walk early. What cannot come
// up at all is refused before the first step.
func Run(ctx context.Context, l Lab, t topology.Topology, o Options) (r Record, made bool, err error) {
	i := slices.IndexFunc(t.Services, func(s topology.Service) bool { return s.Protocol == topology.TCP })
	if i < 0 {
		return Record{}, false, ErrNoPage
	}
	t.Services = slices.Clone(t.Services)
	for i := range t.Services {
		t.Services[i].Mode = topology.SNAT
	}
	if err := l.Check(ctx, t, o.Up); err != nil {
		return Record{}, false, err
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	w := &walk{lab: l, options: o, topology: t, service: t.Services[i], ports: newPorts()}
	w.record = Record{Lab: l.Name(), Topology: t, Begin: time.Now()}
	defer func() {
		w.closePage()
		w.record.Host = thisHost(o) // a browser knows its version once it has run
		w.record.Seconds = time.Since(w.record.Begin).Seconds()
		r = w.record
	}()
	for _, s := range w.steps() {
		if err := w.do(ctx, s); err != nil {
			return r, w.made, err
		}
	}
	if n := w.record.Crosses(); n > 0 {
		return r, true, fmt.Errorf("%w (%d)", ErrCross, n)
	}
	return r, true, nil
}

// nobody is the Observer of a walk that none looks at.
type nobody struct{}

func (nobody) StepBegins(Step) {}
func (nobody) Block(Block)     {}
func (nobody) Check(Check)     {}
func (nobody) StepEnds(Step)   {}

// walk is one walk under way.
type walk struct {
	lab      Lab
	options  Options
	topology topology.Topology
	// service is the one that is walked through: the first of TCP.
	service topology.Service
	ports   *ports
	record  Record
	step    Step
	// made says that the lab is up; an up that fails takes back what it did.
	made bool

	// client and balancer are the ways in, table foretells backends: set once the
	// lab is up.
	client, balancer provider.Machine
	agent            *api.Client
	table            oracle.Table
	emulated         map[string]bool
	// far says that the client's bytes reach labctl by a longer way than the lab's
	// network.
	far bool

	// page is what the browser shows, nil when there is none; backend is who
	// answered last, before that who did before.
	page            Page
	backend, before string
}

// planned is a step to do.
type planned struct {
	key, title, command, there string
	run                        func(context.Context) error
	// vital says that without it there is nothing to walk through.
	vital bool
}

// steps are the walk: the original's first, in its order.
func (w *walk) steps() []planned {
	return slices.Concat(w.startSteps(), w.pageSteps(), w.loadSteps(), w.figureSteps())
}

// do takes one step. What goes wrong in it is a check that does not hold.
func (w *walk) do(ctx context.Context, p planned) error {
	w.step = Step{
		Number: len(w.record.Steps) + 1, Key: p.key, Title: p.title, Command: p.command, There: p.there, Checks: []Check{},
	}
	if w.step.Number > 1 && w.options.Between != nil {
		if err := w.options.Between(ctx, w.step); err != nil {
			return err
		}
	}
	w.options.Observer.StepBegins(w.step)
	begin := time.Now()
	err := p.run(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && p.vital {
		return err
	}
	if err != nil {
		w.check(false, "%v", err)
	}
	if w.step.Here == "" {
		w.step.Here = "It could not be done: see the cross."
	}
	w.step.Seconds = time.Since(begin).Seconds()
	w.record.Steps = append(w.record.Steps, w.step)
	w.options.Observer.StepEnds(w.step)
	return nil
}

func (w *walk) check(ok bool, format string, args ...any) {
	c := Check{OK: ok, Text: fmt.Sprintf(format, args...)}
	w.step.Checks = append(w.step.Checks, c)
	w.options.Observer.Check(c)
}

func (w *walk) show(b Block) {
	w.step.Blocks = append(w.step.Blocks, b)
	w.options.Observer.Block(b)
}

func (w *walk) showText(title, text string) {
	if text = strings.TrimRight(text, "\n"); text != "" {
		w.show(Block{Title: title, Text: text + "\n"})
	}
}

func (w *walk) showTable(title string, head []string, rows [][]string) {
	w.show(Block{Title: title, Table: &Table{Head: head, Rows: rows}})
}

// here says in a sentence what was seen.
func (w *walk) here(format string, args ...any) { w.step.Here = fmt.Sprintf(format, args...) }

// standIn says what of the step is not what it is called.
func (w *walk) standIn(format string, args ...any) {
	w.step.StandIn = strings.TrimSpace(w.step.StandIn + " " + fmt.Sprintf(format, args...))
}

func (w *walk) figure(name string, value float64, unit, note string) {
	w.record.Figures = append(w.record.Figures, Figure{Name: name, Value: value, Unit: unit, Note: note})
}

// address is where the service's traffic reaches a backend.
func (w *walk) address(backend string) netip.AddrPort {
	return netip.AddrPortFrom(w.topology.Nodes[backend].Address, w.service.Port)
}

// addresses are all backends', as the demo's command line has them.
func (w *walk) addresses() string {
	list := make([]string, len(w.service.Backends))
	for i, b := range w.service.Backends {
		list[i] = w.address(b).String()
	}
	return strings.Join(list, ",")
}

// lookup foretells the backend of a connection from one of the client's ports.
func (w *walk) lookup(port uint16) string {
	client := netip.AddrPortFrom(w.topology.Client.Address, port)
	name, _ := w.topology.MachineAt(w.table.Lookup(client, w.service.Port, topology.TCP.Number()).Addr())
	return name
}
