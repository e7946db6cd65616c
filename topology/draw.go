package topology

import (
	"fmt"
	"strings"
)

// Mermaid draws a topology as a Mermaid flowchart, which GitHub shows inside
// Markdown: machines on the switch as plain lines, services as dotted arrows
// from the load balancer.
func Mermaid(t Topology) string {
	var b strings.Builder
	b.WriteString("flowchart TB\n")
	fmt.Fprintf(&b, "  switch[[\"%s switch<br/>%s, MTU %d\"]]\n", t.Switch.Type, t.Switch.Subnet, t.Switch.MTU)
	fmt.Fprintf(&b, "  %s([\"%s<br/>client<br/>%s\"])\n", mermaidID(t.Client.Name), t.Client.Name, t.Client.Address)
	fmt.Fprintf(&b, "  %s --- switch\n", mermaidID(t.Client.Name))
	for _, name := range t.NodeNames() {
		node := t.Nodes[name]
		fmt.Fprintf(&b, "  %s[\"%s<br/>%s<br/>%s, %s\"]\n", mermaidID(name), name, node.Role, node.OS, node.Address)
		fmt.Fprintf(&b, "  switch --- %s\n", mermaidID(name))
	}
	for _, s := range t.Services {
		fmt.Fprintf(&b, "  s_%d{{\"service %d<br/>%s/%s<br/>%s\"}}\n", s.ID, s.ID, s.Frontend(), s.Protocol, s.Mode)
		if balancer := t.LoadBalancer(); balancer != "" {
			fmt.Fprintf(&b, "  %s -.- s_%d\n", mermaidID(balancer), s.ID)
		}
		for _, backend := range s.Backends {
			fmt.Fprintf(&b, "  s_%d -.-> %s\n", s.ID, mermaidID(backend))
		}
	}
	return b.String()
}

// mermaidID keeps machines apart from Mermaid's keywords and from its links,
// which begin with hyphens. No name has an underscore, so none collide.
func mermaidID(machine string) string { return "m_" + strings.ReplaceAll(machine, "-", "_") }

// DOT draws a topology for Graphviz: pipe it to `dot -Tsvg`.
func DOT(t Topology) string {
	var b strings.Builder
	fmt.Fprintf(&b, "graph %q {\n", t.Name)
	b.WriteString("  node [shape=box, fontname=\"sans-serif\"];\n")
	fmt.Fprintf(&b, "  \"switch\" [shape=box3d, label=\"%s switch\\n%s, MTU %d\"];\n", t.Switch.Type, t.Switch.Subnet, t.Switch.MTU)
	fmt.Fprintf(&b, "  %q [shape=ellipse, label=\"%s\\nclient\\n%s\"];\n", t.Client.Name, t.Client.Name, t.Client.Address)
	fmt.Fprintf(&b, "  %q -- \"switch\";\n", t.Client.Name)
	for _, name := range t.NodeNames() {
		node := t.Nodes[name]
		fmt.Fprintf(&b, "  %q [label=\"%s\\n%s\\n%s, %s\"];\n", name, name, node.Role, node.OS, node.Address)
		fmt.Fprintf(&b, "  \"switch\" -- %q;\n", name)
	}
	for _, s := range t.Services {
		id := fmt.Sprintf("service %d", s.ID)
		fmt.Fprintf(&b, "  %q [shape=hexagon, label=\"%s\\n%s/%s\\n%s\"];\n", id, id, s.Frontend(), s.Protocol, s.Mode)
		if balancer := t.LoadBalancer(); balancer != "" {
			fmt.Fprintf(&b, "  %q -- %q [style=dotted];\n", balancer, id)
		}
		for _, backend := range s.Backends {
			fmt.Fprintf(&b, "  %q -- %q [style=dotted, dir=forward];\n", id, backend)
		}
	}
	b.WriteString("}\n")
	return b.String()
}
