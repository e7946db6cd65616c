// Package provider says where a lab's machines live. A provider makes the
// switch and the nodes, hands out a Machine for each, and captures packets at
// the places the proof needs. It knows nothing of load balancing.
//
// What providers can and cannot do is data (Capabilities), not a method that
// some of them refuse.
package provider

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"l4lab/lab/capture"
	"l4lab/lab/guest"
	"l4lab/lab/role"
	"l4lab/topology"
)

// Driver is a provider with its name and what it can do.
type Driver struct {
	Name string
	Capabilities
	Provider
}

// Capabilities is what a provider can do.
type Capabilities struct {
	// Emulates lists operating systems that nodes only stand in for: the node
	// runs that system's programs on Linux, and status says so.
	Emulates []topology.OS
	// Real, when not nil, says of a system that Emulates lists whether a topology
	// names what its nodes are made from: then they run it.
	Real func(t topology.Topology, os topology.OS) bool
	// Client is the operating system of the client; "": Linux.
	Client topology.OS
	// MaxMTU is the largest MTU that the lab's interfaces take, in bytes.
	MaxMTU int
	// Look is how long it may take to look at one machine; 0: 2 s.
	Look time.Duration
	// Answer is how long a test's client may wait for one answer, where its bytes
	// come to labctl by a longer way; 0: the probe's own.
	Answer time.Duration
	// Transfer is how large a test's large transfers are, in bytes, where every
	// frame that was captured has to be fetched afterwards; 0: the probe's own.
	Transfer int64
	// Simulated says that no machine of this provider is a real one, and status
	// says so.
	Simulated bool
}

// Emulated says whether a topology's nodes of an operating system only stand in for it.
func (c Capabilities) Emulated(t topology.Topology, os topology.OS) bool {
	return slices.Contains(c.Emulates, os) && (c.Real == nil || !c.Real(t, os))
}

// Runs returns the operating system whose programs a node of that system gets:
// Linux where the node only stands in for it.
func (c Capabilities) Runs(t topology.Topology, os topology.OS) topology.OS {
	if c.Emulated(t, os) {
		return topology.Linux
	}
	return os
}

// Lab is a lab as providers see it: its topology and the folder that is its own.
// Observe, RemoveNode and Destroy must work when only the topology's name is known.
type Lab struct {
	Topology topology.Topology
	Dir      string
}

// Provider makes and removes machines. All methods may be called side by side
// for different nodes.
type Provider interface {
	// Check returns what this machine has and lacks for the lab.
	Check(ctx context.Context, lab Lab) []Requirement
	// Observe returns what of the lab exists. What is missing is no error. A
	// thing that bears one of the lab's names but not its mark is an error that
	// matches ErrForeign.
	Observe(ctx context.Context, lab Lab) (Actual, error)
	// EnsureSwitch creates or corrects the switch.
	EnsureSwitch(ctx context.Context, lab Lab) error
	// EnsureNode creates or corrects a machine with its link and address. The
	// switch must exist.
	EnsureNode(ctx context.Context, lab Lab, name string) error
	// RemoveNode removes a machine with all that runs in it; fine when it is not there.
	RemoveNode(ctx context.Context, lab Lab, name string) error
	// Destroy removes all that bears the lab's mark, and carries on after an
	// error so that one stuck thing keeps nothing else.
	Destroy(ctx context.Context, lab Lab) error
	// Machine returns the way into a machine.
	Machine(lab Lab, name string) (Machine, error)
	// Capture starts a capture.
	Capture(ctx context.Context, lab Lab, place capture.Place) (*capture.Session, error)
}

// Blind is a Provider that cannot look for a lab that it has no record of.
type Blind interface {
	// Unseen says what cannot be looked at, "" when all can.
	Unseen(lab Lab) string
}

// Machine is one node: how to act in it and what its operating system can do.
type Machine struct {
	Guest  guest.Guest
	System role.System
}

// Actual is what of a lab exists now.
type Actual struct {
	// Switch is nil where there is none.
	Switch *SwitchState `json:"switch,omitempty"`
	// Machines has an entry for every machine found, the client included.
	Machines map[string]MachineState `json:"machines,omitempty"`
}

// SwitchState is what was found of the switch.
type SwitchState struct {
	MTU int `json:"mtu"`
}

// MachineState is what was found of a machine.
type MachineState struct {
	Prefix netip.Prefix     `json:"prefix"`
	MTU    int              `json:"mtu"`
	MAC    net.HardwareAddr `json:"-"`
	// Faults say what of the machine itself (link, address, neighbours) is not
	// as the topology wants it; EnsureNode mends them.
	Faults []string   `json:"faults,omitempty"`
	Facts  role.Facts `json:"facts"`
	// About is what is to be known of the machine itself: "tcg (emulated)".
	About string `json:"about,omitempty"`
}

// Requirement is one thing that a provider needs of this machine.
type Requirement struct {
	// Name is what is needed: "XDP on veth".
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Fatal says that nothing works without it, ForUp that a lab can be removed
	// without it all the same.
	Fatal bool `json:"fatal"`
	ForUp bool `json:"forUp,omitempty"`
	// Found is what is there, Remedy what to do when it is not OK.
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}
