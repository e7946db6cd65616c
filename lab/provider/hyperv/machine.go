package hyperv

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"l4lab/lab/provider"
	"l4lab/lab/role/linux"
	"l4lab/topology"
)

// Machine implements provider.Provider. The host is logged on to, the guest is
// not spoken to yet.
func (p *Provider) Machine(lab provider.Lab, name string) (provider.Machine, error) {
	if !slices.Contains(lab.Topology.MachineNames(), name) {
		return provider.Machine{}, fmt.Errorf("lab %s has no machine %q; it has %s", lab.Topology.Name, name, strings.Join(lab.Topology.MachineNames(), ", "))
	}
	h, err := p.host(context.Background(), lab, false)
	if err != nil {
		return provider.Machine{}, err
	}
	return h.machineOf(lab, name)
}

func (h *host) machineOf(lab provider.Lab, name string) (provider.Machine, error) {
	if name == lab.Topology.Client.Name {
		c := client{h, lab}
		return provider.Machine{Guest: c, System: c}, nil
	}
	if isWindows(lab.Topology, name) {
		m, err := h.windowsMachine(lab, name)
		return provider.Machine{Guest: m, System: m}, err
	}
	g, err := h.linuxGuest(lab, name)
	if err != nil {
		return provider.Machine{}, err
	}
	o := linux.Options{Guest: g, Machine: name, Address: lab.Topology.Nodes[name].Address}
	if h.target.Page == topology.PageNative {
		o.Page = linux.Nginx{}
	}
	s, err := linux.New(o)
	return provider.Machine{Guest: g, System: s}, err
}
