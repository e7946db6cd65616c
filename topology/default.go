package topology

import (
	_ "embed"
	"fmt"
	"slices"
)

// DefaultName is the lab's name when a file has none.
const DefaultName = "l4lb"

// The values of fields that a file may leave out.
const (
	DefaultSwitchType = "internal"
	DefaultMTU        = 1500
	DefaultClientName = "client"
	DefaultOS         = Linux
	DefaultProtocol   = TCP
	DefaultMode       = DSR
)

//go:embed default.yaml
var defaultYAML []byte

// DefaultYAML returns the demo's topology as YAML with comments.
func DefaultYAML() []byte { return slices.Clone(defaultYAML) }

//go:embed hyperv.yaml
var hypervYAML []byte

// HyperVYAML returns the demo's topology with a block for the Hyper-V provider
// to fill in.
func HyperVYAML() []byte { return slices.Concat(defaultYAML, hypervYAML) }

// Default returns the demo's topology: a load balancer 20.1.1.1, the Windows
// backends be1 and be2, the Linux backends be3 and be4, the client 20.1.1.100 and
// the service 40.1.1.1:80/tcp in DSR mode.
func Default() Topology {
	t, err := Parse("default.yaml", defaultYAML)
	if err != nil {
		panic(fmt.Sprintf("the embedded topology is wrong: %v", err)) // a test parses it
	}
	return t
}

// fillDefaults gives fields that the file does not have their values. A field
// that is there keeps what was written, be it zero: Validate judges it.
func fillDefaults(t *Topology, has func(path string) bool) {
	if !has("name") {
		t.Name = DefaultName
	}
	if !has("switch.type") {
		t.Switch.Type = DefaultSwitchType
	}
	if !has("switch.mtu") {
		t.Switch.MTU = DefaultMTU
	}
	if !has("client.name") {
		t.Client.Name = DefaultClientName
	}
	for name, node := range t.Nodes {
		if !has("nodes." + name + ".os") {
			node.OS = DefaultOS
			t.Nodes[name] = node
		}
	}
	if h := t.Providers.HyperV; h != nil {
		h.fill(func(path string) bool { return has(hypervPath + "." + path) })
	}
	if q := t.Providers.QEMU; q != nil {
		q.fill(func(path string) bool { return has(qemuPath + "." + path) })
	}
	for i := range t.Services {
		service, path := &t.Services[i], fmt.Sprintf("services[%d]", i)
		if !has(path + ".protocol") {
			service.Protocol = DefaultProtocol
		}
		if !has(path + ".mode") {
			service.Mode = DefaultMode
		}
		if !has(path + ".tableSize") {
			service.TableSize = DefaultTableSize
		}
	}
}
