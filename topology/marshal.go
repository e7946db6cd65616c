package topology

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
)

// Marshal writes a topology as YAML in the shape of the default file, load
// balancer first and nodes in NodeNames' order. What it writes, Parse reads
// back as the same value; so it fails with Faults for a topology that Validate
// refuses.
func Marshal(t Topology) ([]byte, error) {
	if err := Validate(t).OrNil(); err != nil {
		return nil, fmt.Errorf("write lab %q as YAML: %w", t.Name, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\n", quote(t.Name))
	fmt.Fprintf(&b, "switch: {type: %s, subnet: %s, mtu: %d}\n", t.Switch.Type, t.Switch.Subnet, t.Switch.MTU)
	fmt.Fprintf(&b, "client: {name: %s, address: %s}\n", quote(t.Client.Name), t.Client.Address)

	b.WriteString("nodes:\n")
	for _, name := range t.NodeNames() {
		node := t.Nodes[name]
		fmt.Fprintf(&b, "  %s: {role: %s, os: %s, address: %s}\n", quote(name), node.Role, node.OS, node.Address)
	}

	b.WriteString("services:\n")
	for _, s := range t.Services {
		names := make([]string, len(s.Backends))
		for i, backend := range s.Backends {
			names[i] = quote(backend)
		}
		table := ""
		if s.TableSize != 0 && s.TableSize != DefaultTableSize {
			table = fmt.Sprintf(", tableSize: %d", s.TableSize)
		}
		fmt.Fprintf(&b, "  - {id: %d, vip: %s, port: %d, protocol: %s, mode: %s%s, backends: [%s]}\n",
			s.ID, s.VIP, s.Port, s.Protocol, s.Mode, table, strings.Join(names, ", "))
	}
	writeBlock(&b, "", "providers", reflect.ValueOf(t.Providers))
	return []byte(b.String()), nil
}

// quote writes a name so that YAML reads a string: "1", "null" and "on" are
// DNS labels as well.
func quote(name string) string {
	text, err := yaml.Marshal(name)
	if err != nil {
		return fmt.Sprintf("%q", name)
	}
	return strings.TrimSpace(string(text))
}
