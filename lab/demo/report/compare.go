package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"l4lab/bpf/inventory"
	"l4lab/lab/demo"
	"l4lab/topology"
)

// comparison is a row of the table that sets the original beside this project.
type comparison struct{ What, There, Here string }

// comparisons are what the steps, each in its own place, do not say. The original's
// side is the eBPF for Windows team's post of February 2022 and its set-up guide.
func comparisons(r demo.Record, s inventory.Sharing) []comparison {
	t := r.Topology
	hooks := map[topology.OS]string{topology.Windows: "XDP on Windows", topology.Linux: "TC on Linux"}
	var hooked []string
	for _, system := range []topology.OS{topology.Linux, topology.Windows} {
		if slices.ContainsFunc(t.Backends(), func(b string) bool { return t.Nodes[b].OS == system }) {
			hooked = append(hooked, hooks[system])
		}
	}
	emulated := ""
	if len(r.Emulated) > 0 {
		emulated = " (" + strings.Join(r.Emulated, ", ") + " emulated)"
	}
	standIns := ""
	switch {
	case r.Simulated:
		emulated, standIns = " on a simulated Hyper-V host", " (simulated)"
	case slices.ContainsFunc(t.Backends(), func(b string) bool { return slices.Contains(r.Emulated, b) }):
		standIns = " (emulated)"
	}
	return []comparison{
		{"Balancer", "Windows Server", nodeOn(r, t.LoadBalancer())},
		{"Backends", "two Windows Server with IIS, two Linux with nginx", backendsOf(r)},
		{"Agent", "a user-mode agent, since Cilium's is tied to netlink", "lbagent, of this project, for both systems"},
		{"Data path", "Cilium's layer-4 load balancer, written for Linux", "this project's own C, one source for both systems"},
		{"Shared code", "about 96 %", fmt.Sprintf("%.1f %% of the XDP programs' lines; what each counts is below", s.XDP.Share())},
		{"Machines", "five virtual machines and their Hyper-V host as client", fmt.Sprintf("%d machines and a client, %s%s", len(t.Nodes), cmp.Or(map[string]string{"netns": "network namespaces"}[r.Provider], r.Provider), emulated)},
		{"Switch", "one internal VMSwitch, 20.1.1.0/24", fmt.Sprintf("one %s switch, %s, MTU %d", t.Switch.Type, t.Switch.Subnet, t.Switch.MTU)},
		{"Set-up", "by hand, node by node", "one command"},
		{"Compiling", "by the agent on the balancer, anew for each mode", "beforehand: one object for every mode and interface"},
		{"Next hops' MACs", "from a map that the agent fills, for want of fib_lookup", "the same, and the agent follows changes"},
		{"Decapsulation", "XDP on Windows, TC on Linux", strings.Join(hooked, ", ") + standIns},
		{"Packets that do not fit in DSR", "dropped: no xdp_adjust_tail, so no ICMP error", "an ICMP error from the VIP tells the sender"},
		{"Browser", "the host's", browserOf(r)},
	}
}

// nodeOn is a node's system and what stands in for it.
func nodeOn(r demo.Record, node string) string {
	system := r.Topology.Nodes[node].OS
	switch {
	case slices.Contains(r.Emulated, node), r.Simulated && system == topology.Windows:
		return fmt.Sprintf("%s, a stand-in for %s that runs Linux", node, title(system))
	}
	return fmt.Sprintf("%s, %s", node, title(system))
}

// backendsOf are the backends by system, and their web server.
func backendsOf(r demo.Record) string {
	var list []string
	for _, system := range []topology.OS{topology.Windows, topology.Linux} {
		var names []string
		standIn := ""
		for _, b := range r.Topology.Backends() {
			if r.Topology.Nodes[b].OS != system {
				continue
			}
			names = append(names, b)
			if slices.Contains(r.Emulated, b) || r.Simulated && system == topology.Windows {
				standIn = ", stand-ins that run Linux"
			}
		}
		if len(names) > 0 {
			list = append(list, fmt.Sprintf("%s (%s%s)", strings.Join(names, ", "), title(system), standIn))
		}
	}
	page := "the page is lbagent's own"
	if h := r.Topology.Providers.HyperV; h != nil && h.Page == topology.PageNative && !r.Simulated {
		page = "the page comes from each system's own web server"
	}
	return strings.Join(append(list, page), "; ")
}

func title(system topology.OS) string {
	return map[topology.OS]string{topology.Windows: "Windows", topology.Linux: "Linux"}[system]
}

func browserOf(r demo.Record) string {
	switch {
	case r.Host.Browser == "" && r.ClientOS == topology.Windows:
		return "none: labctl steers a browser on Linux clients alone, and the client is Windows"
	case r.Host.Browser == "":
		return "none was there"
	}
	return r.Host.Browser + ", in the client"
}

// shares set the percentages side by side.
func shares(s inventory.Sharing) []share {
	percent := func(l inventory.Lines) string { return fmt.Sprintf("%.1f %%", l.Share()) }
	lines := func(l inventory.Lines) string { return fmt.Sprintf("%d of %d", l.Both, l.Linux) }
	return []share{
		{"the original", "Cilium's eBPF code, written for Linux, that ran on Windows unchanged", "not given", "about 96 %"},
		{"here, the XDP programs", "source lines compiled for Linux that are compiled for Windows too, of one source written for both", lines(s.XDP), percent(s.XDP)},
		{"here, with the TC decapsulation", "the same, with the program that only Linux has a hook for", lines(s.All), percent(s.All)},
	}
}
