package hvsim

import (
	"context"

	"l4lab/lab/provider/hyperv/scripts"
)

func (h *Host) hostCheck(_ context.Context, p scripts.HostCheckParams) (scripts.HostCheckResult, error) {
	var none scripts.HostCheckResult
	if _, err := h.drives.real(p.Folder); err != nil {
		return none, err
	}
	free, err := h.freeBytes()
	if err != nil {
		return none, err
	}
	f := h.o.Profile
	r := scripts.HostCheckResult{
		Simulated: true, OS: f.OS, Version: f.Version, PowerShell: f.PowerShell, Edition: f.Edition, Elevated: !f.NotElevated,
		HyperV: !f.NoHyperV, Module: f.Module, FreeDiskMB: free >> 20, Processors: h.o.Processors, SSHServer: f.SSHServer, Pktmon: f.Pktmon,
	}
	if f.NoHyperV {
		r.Module = ""
	}
	h.store.Lock()
	defer h.store.Unlock()
	r.FreeMemoryMB = max(h.freeMemoryMB(), 0)
	if !f.NoHyperV && !f.NotElevated {
		r.Foreign = h.foreign(p.Names, p.Mark)
	}
	return r, nil
}

// foreign lists switches and machines of these names without the mark. The
// caller holds the store's lock.
func (h *Host) foreign(names []string, mark string) []string {
	var found []string
	for _, name := range names {
		for _, s := range h.store.switchesNamed(name) {
			if !s.ours(mark) {
				found = append(found, "switch "+s.Name)
			}
		}
		for _, vm := range h.store.machinesNamed(name) {
			if !vm.ours(mark) {
				found = append(found, "machine "+vm.Name)
			}
		}
	}
	return found
}

func (h *Host) labObserve(_ context.Context, p scripts.LabObserveParams) (scripts.LabObserveResult, error) {
	h.store.Lock()
	defer h.store.Unlock()
	var r scripts.LabObserveResult
	for _, s := range h.store.switchesNamed(p.Switch) {
		if s.ours(p.Mark) {
			facts := s.facts()
			r.Switch = &facts
		} else {
			r.Foreign = append(r.Foreign, "switch "+s.Name)
		}
	}
	for _, vm := range h.store.Machines {
		if vm.ours(p.Mark) {
			r.Machines = append(r.Machines, h.facts(vm))
		}
	}
	for _, name := range p.Names {
		for _, vm := range h.store.machinesNamed(name) {
			if !vm.ours(p.Mark) {
				r.Foreign = append(r.Foreign, "machine "+vm.Name)
			}
		}
	}
	remembered, err := h.rememberedProxies(p.Folder)
	if err != nil {
		return r, err
	}
	for _, proxy := range remembered {
		if h.proxy(proxy) != nil {
			r.PortProxies = append(r.PortProxies, proxy.params())
		}
	}
	return r, nil
}
