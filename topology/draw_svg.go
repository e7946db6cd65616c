package topology

import (
	"fmt"
	"strings"

	"l4lab/topology/svg"
)

// MachineStatus is what a live lab adds to the drawing of a machine.
type MachineStatus struct {
	// MAC is the machine's address on the switch.
	MAC string
	// Emulated says that the machine only stands in for its operating system.
	Emulated bool
}

// Status is what a live lab adds to a drawing, by machine; nil: nothing.
type Status map[string]MachineStatus

// The drawing's measures, in CSS pixels.
const (
	svgMargin  = 16
	svgGap     = 18
	svgBox     = 184
	svgLine    = 18
	svgColumns = 4
)

// SVG draws a topology as machines on a switch: client and balancer above it, the
// backends below.
func SVG(t Topology, status Status) string {
	backends := t.Backends()
	columns := max(2, min(svgColumns, len(backends)))
	rows := (len(backends) + columns - 1) / columns
	width := float64(2*svgMargin + columns*svgBox + (columns-1)*svgGap)
	client, balancer := t.clientLines(status), t.balancerLines(status)
	top := boxHeight(max(len(client), len(balancer)))
	low := boxHeight(len(t.machineLines("", status)))
	bar := svgMargin + top + 26
	first := bar + 32 + 26
	height := float64(first + rows*(low+svgGap) - svgGap + svgMargin)

	f := svg.New(width, height, t.Words(status))
	half := (width - 2*svgMargin - svgGap) / 2
	for i, box := range []struct {
		name, class string
		lines       []svg.Span
	}{{t.Client.Name, "cl", client}, {t.LoadBalancer(), "lb", balancer}} {
		if box.name == "" {
			continue
		}
		x := svgMargin + float64(i)*(half+svgGap)
		f.Line("wire", x+half/2, svgMargin+float64(top), x+half/2, float64(bar))
		drawMachine(f, x, svgMargin, half, float64(top), box.class, box.name, box.lines)
	}
	for i, name := range backends {
		x := float64(svgMargin + i%columns*(svgBox+svgGap))
		y := float64(first + i/columns*(low+svgGap))
		if i < columns {
			f.Line("wire", x+svgBox/2, float64(bar+32), x+svgBox/2, y)
		} else {
			// Past the rows above, in the gap beside them.
			f.Line("wire", x-svgGap/2, float64(bar+32), x-svgGap/2, y+float64(low)/2, x, y+float64(low)/2)
		}
		drawMachine(f, x, y, svgBox, float64(low), "be", name, t.machineLines(name, status))
	}
	f.Box(svgMargin/2, float64(bar), width-svgMargin, 32, "box", "")
	f.Text(width/2, float64(bar)+21, svg.Middle, "", svg.Plain(fmt.Sprintf("%s switch · %s · MTU %d", t.Switch.Type, t.Switch.Subnet, t.Switch.MTU)))
	return f.String()
}

// with adds what only a live lab knows.
func (s Status) with(machine string, lines []svg.Span) []svg.Span {
	if len(s) == 0 {
		return lines
	}
	return append(lines, svg.Span{Text: s[machine].MAC, Class: "mono soft"})
}

func boxHeight(lines int) int { return 34 + lines*svgLine + 4 }

func drawMachine(f *svg.Figure, x, y, width, height float64, class, name string, lines []svg.Span) {
	f.Box(x, y, width, height, class, name)
	f.Text(x+12, y+24, svg.Start, "name", svg.Plain(svg.Shortened(name, int(width)/10)))
	for i, line := range lines {
		f.Text(x+12, y+44+float64(i*svgLine), svg.Start, line.Class, svg.Plain(svg.Shortened(line.Text, int(width-16)/7)))
	}
}

// machineLines are what a backend's box says; of no name, as many lines as there would be.
func (t Topology) machineLines(name string, status Status) []svg.Span {
	n := t.Nodes[name]
	system := string(n.OS)
	if status[name].Emulated {
		system += " (emulated)"
	}
	return status.with(name, []svg.Span{{Text: roleName(n.Role), Class: "soft"}, {Text: system}, {Text: n.Address.String(), Class: "mono"}})
}

// describe returns a machine's role and system: "backend, windows (emulated)".
func (t Topology) describe(name string, status Status) string {
	n, ok := t.Nodes[name]
	switch {
	case !ok:
		return string(RoleClient)
	case status[name].Emulated:
		return fmt.Sprintf("%s, %s (emulated)", roleName(n.Role), n.OS)
	}
	return fmt.Sprintf("%s, %s", roleName(n.Role), n.OS)
}

func roleName(r Role) string {
	if r == RoleLoadBalancer {
		return "load balancer"
	}
	return string(r)
}

func (t Topology) balancerLines(status Status) []svg.Span {
	lines := t.machineLines(t.LoadBalancer(), status)
	for _, s := range t.Services {
		lines = append(lines, svg.Span{Text: fmt.Sprintf("VIP %s/%s → %s", s.Frontend(), s.Protocol, strings.Join(s.Backends, ", ")), Class: "mono"})
	}
	return lines
}

func (t Topology) clientLines(status Status) []svg.Span {
	lines := status.with(t.Client.Name, []svg.Span{
		{Text: string(RoleClient), Class: "soft"}, {Text: "a browser"}, {Text: t.Client.Address.String(), Class: "mono"},
	})
	seen := map[string]bool{}
	for _, s := range t.Services {
		route := fmt.Sprintf("route %s/%d via %s", s.VIP, s.VIP.BitLen(), t.Nodes[t.LoadBalancer()].Address)
		if !seen[route] {
			seen[route] = true
			lines = append(lines, svg.Span{Text: route, Class: "mono"})
		}
	}
	return lines
}

// Words says in one sentence what the drawings show.
func (t Topology) Words(status Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Topology of lab %s: one %s switch %s joins", t.Name, t.Switch.Type, t.Switch.Subnet)
	for i, name := range append([]string{t.Client.Name}, t.NodeNames()...) {
		if i > 0 {
			b.WriteByte(',')
		}
		address, _ := t.Address(name)
		fmt.Fprintf(&b, " %s (%s, %s)", name, t.describe(name, status), address)
	}
	for _, s := range t.Services {
		fmt.Fprintf(&b, "; the balancer announces %s/%s for %s", s.Frontend(), s.Protocol, strings.Join(s.Backends, ", "))
	}
	return b.String() + "."
}
