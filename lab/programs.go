package lab

import (
	"fmt"

	"l4lab/lab/guest"
	"l4lab/lab/provider"
	"l4lab/topology"
)

// Programs are the paths of the lbagent binaries, by the operating system that
// they are built for.
type Programs map[topology.OS]string

// Needed returns the programs that a topology's nodes get from a provider, by
// the nodes' operating systems.
func (p Programs) Needed(d provider.Driver, t topology.Topology) Programs {
	needed := Programs{}
	for _, n := range t.Nodes {
		needed[n.OS] = p[d.Runs(t, n.OS)]
	}
	return needed
}

// program returns the path of what a node of that system gets.
func (l *Lab) program(d provider.Driver, t topology.Topology, system topology.OS) string {
	return l.options.Programs[d.Runs(t, system)]
}

// programHashes returns the SHA-256 of what the nodes get, by their operating systems.
func (l *Lab) programHashes(d provider.Driver, t topology.Topology) (map[topology.OS]string, error) {
	hashes := map[topology.OS]string{}
	for system, path := range l.options.Programs.Needed(d, t) {
		hash, err := guest.HashFile(path)
		if err != nil {
			runs := d.Runs(t, system)
			return nil, fmt.Errorf("find the agent's program for %s: %w; build it with `make build`, or name it with %s", runs, err, FlagOf(runs))
		}
		hashes[system] = hash
	}
	return hashes, nil
}

// FlagOf returns labctl's flag that names the program for an operating system.
func FlagOf(system topology.OS) string {
	if system == topology.Windows {
		return "--agent-windows"
	}
	return "--agent"
}

// FirstBootName is the program that makes of an image the machine that its seed
// speaks of (cmd/l4lab-firstboot): images that labctl builds have it inside.
const FirstBootName = "l4lab-firstboot"
