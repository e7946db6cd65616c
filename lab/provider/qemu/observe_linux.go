package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/netns"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/lab/state"
)

// Observe implements provider.Provider.
func (p *Provider) Observe(ctx context.Context, lab provider.Lab) (provider.Actual, error) {
	actual, err := p.base.Observe(ctx, lab)
	if err != nil {
		return actual, err
	}
	names, err := found(lab)
	if err != nil {
		return actual, err
	}
	ports, err := netns.PortFaults(lab)
	if err != nil {
		return actual, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			m := p.state(ctx, lab, name, ports[name])
			mu.Lock()
			defer mu.Unlock()
			actual.Machines[name] = m
		})
	}
	wg.Wait()
	return actual, ctx.Err()
}

// found lists the nodes of which something is there.
func found(lab provider.Lab) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(state.NodeDir(lab.Dir, "any")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for machines: %w", err)
	}
	var names []string
	for _, e := range entries {
		if _, err := os.Stat(recordFile(state.NodeDir(lab.Dir, e.Name()))); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// state is what was found of a virtual machine, from outside and, when it runs, from
// inside. What cannot be asked is a fault of the machine, not of the look.
func (p *Provider) state(ctx context.Context, lab provider.Lab, name string, port string) provider.MachineState {
	t := lab.Topology
	node, wanted := t.Nodes[name]
	if !wanted {
		return provider.MachineState{} // to be removed: what runs in it goes with it
	}
	m := provider.MachineState{
		Prefix: netip.PrefixFrom(node.Address, t.Switch.Subnet.Bits()), MTU: t.Switch.MTU, MAC: fabric.MACOf(node.Address),
	}
	if fault := p.fault(ctx, lab, name, port); fault != "" {
		m.Faults = []string{fault}
		return m
	}
	if r, err := readRecord(state.NodeDir(lab.Dir, name)); err == nil {
		m.About = aboutOf(r)
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	look := p.lookLinux
	if isWindows(t, name) {
		look = p.lookWindows
	}
	if err := look(ctx, lab, name, &m); err != nil {
		m.Faults = append(m.Faults, "does not answer: "+err.Error())
	}
	return m
}

// lookLinux asks a Linux guest.
func (p *Provider) lookLinux(ctx context.Context, lab provider.Lab, name string, m *provider.MachineState) error {
	mach, err := p.Machine(lab, name)
	if err != nil {
		return err
	}
	m.Facts, err = mach.System.Observe(ctx)
	return err
}

// fault says what of a machine is not as wanted, as far as it shows from outside; "" when
// nothing is.
func (p *Provider) fault(ctx context.Context, lab provider.Lab, name, port string) string {
	dir := state.NodeDir(lab.Dir, name)
	if p.anew(lab, name) {
		return "is to be made anew"
	}
	r, err := readRecord(dir)
	if err != nil {
		return err.Error()
	}
	if changed := p.changed(lab, name, r); changed != "" {
		return changed
	}
	if !r.Ready {
		return "its set-up did not end"
	}
	v, err := vm.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "is off; `labctl up` starts it"
	}
	if err != nil {
		return err.Error()
	}
	s, err := v.State(ctx)
	switch {
	case s == vm.Gone:
		return "has ended; `labctl up` starts it again. The end of its console: " + lastLine(v.Console(consoleTail))
	case err != nil:
		return err.Error()
	case s == vm.Panicked, panicked(v):
		return "its kernel has panicked; `labctl up` starts it again. Its console: " + panicLine(v.Console(panicTail))
	case s != vm.Running:
		return fmt.Sprintf("is %s; `labctl up` mends it. The end of its console: %s", s, lastLine(v.Console(consoleTail)))
	}
	return port
}

// aboutOf is how a machine runs.
func aboutOf(r record) string {
	if r.Accel == string(vm.TCG) {
		return "tcg (emulated)"
	}
	return r.Accel
}

// lastLine is the last line of a text that has anything in it.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// panicTail is how much of a console has a kernel's last words and the trace that follows
// them, in bytes.
const panicTail = 8000

// panicLine is where a console says why the kernel panicked, else its last line. A trace
// follows it, at whose end a machine with pvpanic is stopped.
func panicLine(text string) string {
	at := strings.LastIndex(text, "Kernel panic - not syncing")
	if at < 0 {
		return lastLine(text)
	}
	line, _, _ := strings.Cut(text[at:], "\n")
	return strings.TrimSpace(line)
}

// changed says what a machine was made from that is another now, "" when nothing is.
func (p *Provider) changed(lab provider.Lab, name string, was record) string {
	want := imageName(lab.Topology, name)
	if was.Image != want {
		return fmt.Sprintf("image %s -> %s", was.Image, want)
	}
	img, err := p.o.Images.Get(want)
	if err != nil {
		return "" // it runs on; `labctl up` needs the image, and says so
	}
	d, err := designOf(lab, name, img)
	switch {
	case err != nil:
		return err.Error()
	case d.hash() != was.Design:
		return "it was made from another image, memory, address, key or eBPF files"
	}
	return ""
}

// port is a node's place on the switch.
func port(lab provider.Lab, name string) fabric.Port {
	t := lab.Topology
	return fabric.Port{Name: name, MAC: fabric.MACOf(t.Nodes[name].Address), MTU: t.Switch.MTU}
}

// missing lists the nodes whose machines do not run.
func missing(lab provider.Lab) []string {
	return slices.DeleteFunc(lab.Topology.NodeNames(), func(name string) bool {
		v, err := vm.Open(state.NodeDir(lab.Dir, name))
		return err == nil && v.Alive()
	})
}
