package hyperv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role"
	"l4lab/topology"
)

// lookLimit bounds looking at one guest: PowerShell Direct takes seconds for a
// session of its own.
const lookLimit = time.Minute

// running is Hyper-V's word for a machine that is on.
const running = "Running"

// Observe implements provider.Provider. A lab that no host is known of has nothing.
func (p *Provider) Observe(ctx context.Context, lab provider.Lab) (provider.Actual, error) {
	actual := provider.Actual{Machines: map[string]provider.MachineState{}}
	h, err := p.host(ctx, lab, false)
	if errors.Is(err, ErrNoHost) {
		return actual, nil
	}
	if err != nil {
		return actual, err
	}
	t := lab.Topology
	found, err := h.observe(ctx, t)
	if err != nil {
		return actual, err
	}
	if len(found.Foreign) > 0 {
		return actual, h.errorf("%s %w; use another --name, or remove it there", strings.Join(found.Foreign, ", "), provider.ErrForeign)
	}
	if sw := found.Switch; sw != nil {
		actual.Switch = &provider.SwitchState{MTU: sw.MTU + role.EncapOverhead}
		if t.Client.Name != "" {
			actual.Machines[t.Client.Name] = clientState(t, *sw)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, vm := range found.Machines {
		wg.Go(func() {
			m := h.machineState(ctx, lab, vm)
			mu.Lock()
			defer mu.Unlock()
			actual.Machines[vm.Node] = m
		})
	}
	wg.Wait()
	return actual, ctx.Err()
}

// clientState is what was found of the host's adapter.
func clientState(t topology.Topology, sw scripts.SwitchFacts) provider.MachineState {
	m := provider.MachineState{MTU: sw.MTU, Facts: clientFacts(t, sw)}
	if mac, err := parseMAC(sw.MAC); err == nil {
		m.MAC = mac
	}
	want := netip.PrefixFrom(t.Client.Address, t.Switch.Subnet.Bits())
	for _, text := range sw.Addresses {
		if p, err := netip.ParsePrefix(text); err == nil && (p == want || !m.Prefix.IsValid()) {
			m.Prefix = p
		}
	}
	if m.Prefix != want {
		m.Faults = append(m.Faults, fmt.Sprintf("address %s -> %s", m.Prefix, want))
	}
	if sw.MTU != clientMTU(t) {
		m.Faults = append(m.Faults, fmt.Sprintf("mtu %d -> %d", sw.MTU, clientMTU(t)))
	}
	return m
}

// machineState is what was found of a virtual machine, from outside and, when it
// runs, from inside. What cannot be asked is a fault of the machine, not of the look.
func (h *host) machineState(ctx context.Context, lab provider.Lab, vm scripts.VMFacts) provider.MachineState {
	t := lab.Topology
	var m provider.MachineState
	if mac, err := parseMAC(vm.MAC); err == nil {
		m.MAC, m.Prefix = mac, addressOf(mac, t.Switch.Subnet)
	}
	node, wanted := t.Nodes[vm.Node]
	if !wanted {
		return m // to be removed: what runs in it goes with it
	}
	m.MTU = t.Switch.MTU
	m.Faults = h.differences(lab, vm.Node, vm)
	if vm.State != running {
		m.Faults = append(m.Faults, "is "+strings.ToLower(vm.State))
	}
	if len(m.Faults) > 0 {
		return m
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	look := h.lookLinux
	if node.OS == topology.Windows {
		look = h.lookWindows
	}
	if err := look(ctx, lab, vm.Node, &m); err != nil {
		m.Faults = append(m.Faults, "does not answer: "+err.Error())
	}
	return m
}

// differences says what of a machine is not as the topology wants it, as far as
// it shows from outside.
func (h *host) differences(lab provider.Lab, name string, vm scripts.VMFacts) []string {
	t := lab.Topology
	node := t.Nodes[name]
	image := h.target.Images.Of(node.OS)
	var faults []string
	note := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	note(!slices.Contains(vm.Checkpoints, readyCheckpoint), "its set-up did not end")
	mac := macDigits(macOf(node.Address))
	note(!strings.EqualFold(strings.NewReplacer("-", "", ":", "").Replace(vm.MAC), mac), "mac %s -> %s", vm.MAC, mac)
	note(vm.Switch != switchName(t.Name), "switch %q -> %s", vm.Switch, switchName(t.Name))
	note(!vm.Spoofing, "may not send other addresses' frames")
	if image != nil {
		note(vm.MemoryMB != int64(image.MemoryMB), "memory %d -> %d MB", vm.MemoryMB, image.MemoryMB)
		note(vm.Processors != image.CPUs, "processors %d -> %d", vm.Processors, image.CPUs)
		note(vm.Generation == 2 && vm.SecureBoot != image.StartsSigned(node.OS), "secure boot %t -> %t", vm.SecureBoot, image.StartsSigned(node.OS))
	}
	if node.OS == topology.Linux {
		seed, err := h.seedOf(lab, name)
		note(err != nil, "its seed cannot be made: %v", err)
		note(err == nil && seed.hash != seed.applied, "its address, MTU or key")
	}
	return faults
}

// lookWindows asks a Windows guest.
func (h *host) lookWindows(ctx context.Context, lab provider.Lab, name string, m *provider.MachineState) error {
	w, err := h.windowsMachine(lab, name)
	if err != nil {
		return err
	}
	f, err := w.Facts(ctx)
	if err != nil {
		return err
	}
	t := lab.Topology
	mtu, faults := w.Differences(f, t.Switch.Subnet.Bits(), t.Switch.MTU)
	if m.Faults = append(m.Faults, faults...); mtu != 0 {
		m.MTU = mtu
	}
	m.Facts, err = w.FactsOf(ctx, f)
	return err
}

// lookLinux asks a Linux guest.
func (h *host) lookLinux(ctx context.Context, lab provider.Lab, name string, m *provider.MachineState) error {
	mach, err := h.machineOf(lab, name)
	if err != nil {
		return err
	}
	t := lab.Topology
	mtu, err := linuxMTU(ctx, mach.Guest, t.Nodes[name].Address)
	if err != nil {
		return err
	}
	if m.MTU = mtu; mtu != t.Switch.MTU {
		m.Faults = append(m.Faults, fmt.Sprintf("mtu %d -> %d", mtu, t.Switch.MTU))
	}
	m.Facts, err = mach.System.Observe(ctx)
	return err
}

// linuxMTU is that of the interface that has an address.
func linuxMTU(ctx context.Context, g guest.Guest, address netip.Addr) (int, error) {
	var out bytes.Buffer
	if err := g.Run(ctx, guest.Command{Argv: []string{"ip", "-json", "-4", "address", "show"}, Stdout: &out}); err != nil {
		return 0, err
	}
	var links []struct {
		MTU       int `json:"mtu"`
		Addresses []struct {
			Local string `json:"local"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(out.Bytes(), &links); err != nil {
		return 0, fmt.Errorf("read its interfaces: %w", err)
	}
	for _, l := range links {
		for _, a := range l.Addresses {
			if a.Local == address.String() {
				return l.MTU, nil
			}
		}
	}
	return 0, fmt.Errorf("no interface has the address %s", address)
}
