package e2e

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"

	"l4lab/lab/provider"
	"l4lab/topology"
)

// need is something that a spec asks of the provider that the suite runs on.
type need string

// What specs may need.
const (
	// namespaces: each node is a network namespace of this machine, LAB-NODE,
	// which the spec enters itself.
	namespaces need = "namespaces"
	// processes: the nodes' daemons are processes of this machine, which the
	// spec signals itself.
	processes need = "processes"
	// manyLabs: labs are cheap enough that a spec may have one of its own.
	manyLabs need = "many labs"
	// manyConnections: the client opens hundreds of connections a second.
	manyConnections need = "many connections"
	// folders: what nodes have lies below the lab's folder on this machine: logs,
	// sockets, pinned maps.
	folders need = "folders"
	// emulation: Windows nodes stand in for Windows on Linux.
	emulation need = "emulation"
	// linuxClient: the client is a Linux machine, with Linux's commands.
	linuxClient need = "a Linux client"
	// root: the lab is made on this machine, by root, in a moment.
	root need = "root"
	// machines: nodes are virtual machines of this one, with kernels of their own.
	machines need = "virtual machines"
)

// offer is one thing that a provider may have: whether it does is read from what
// it says it can do, and from its name where it says nothing.
type offer struct {
	has func(d provider.Driver) bool
	// without says what is there instead.
	without string
}

func onNetns(d provider.Driver) bool { return d.Name == netnsName }
func onQEMU(d provider.Driver) bool  { return d.Name == qemuName }

func offers() map[need]offer {
	return map[need]offer{
		namespaces:      {onNetns, "its nodes are no named namespaces of this machine"},
		processes:       {onNetns, "its nodes' processes are not this machine's"},
		manyConnections: {onNetns, "its client, or its nodes, are too slow for them"},
		manyLabs:        {onNetns, "a lab takes too long to come up"},
		folders:         {onNetns, "its nodes keep their files themselves"},
		emulation:       {func(d provider.Driver) bool { return len(d.Emulates) > 0 }, "its nodes run the operating systems that the topology names"},
		linuxClient:     {func(d provider.Driver) bool { return d.Client == "" || d.Client == topology.Linux }, "its client is the host"},
		root:            {func(d provider.Driver) bool { return onNetns(d) || d.Simulated }, "its labs are elsewhere, or machines that boot"},
		machines:        {onQEMU, "its nodes are no virtual machines of this one"},
	}
}

// needs skips the spec, or from BeforeAll the container, on a provider that
// lacks something; the report counts what was skipped and why.
func (s *suite) needs(what ...need) {
	GinkgoHelper()
	d := s.driver()
	for _, n := range what {
		o, known := offers()[n]
		if !known {
			Fail(fmt.Sprintf("no provider has %q", n))
		}
		if !o.has(d) {
			Skip(fmt.Sprintf("provider %s lacks %s: %s", d.Name, n, o.without))
		}
	}
}
