package report

import (
	"fmt"
	"slices"

	"l4lab/lab/demo"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
	"l4lab/topology/svg"
)

// A path's figure has a column for the client, the balancer and the backend. Time
// runs downwards; each arrow carries the headers of the captured packet.
const (
	drawMargin = 14.0
	drawEdge   = 112.0 // from the margin to the middle of the first column
	drawPitch  = 318.0
	drawWidth  = 2*(drawEdge+drawMargin) + 2*drawPitch
	headWidth  = 196.0
	headHeight = 62.0
	cardWidth  = 282.0
	cardLine   = 17.0
	// cardChars of the style's monospaced 11.5 px, 6.93 px wide, fit into a card.
	cardChars = 36
)

// drawing is a path's figure in the making.
type drawing struct {
	*svg.Figure
	record demo.Record
	path   path
	names  []string
	y      float64
}

// drawPath draws a passage: figure 3.
func drawPath(r demo.Record, p path, words string) string {
	d := drawing{record: r, path: p, names: []string{r.Topology.Client.Name, r.Topology.LoadBalancer(), p.Backend}}
	d.Figure = svg.New(drawWidth, d.height(), words)
	for i := range d.names {
		d.Line("wire dash", d.column(i), drawMargin+headHeight, d.column(i), d.height()-drawMargin)
	}
	for i, name := range d.names {
		d.head(i, name)
	}
	d.y = drawMargin + headHeight + 16
	number := 0
	for _, j := range p.Journeys {
		class := "request"
		if j.Title == "Reply" {
			class = "reply"
		}
		for i, s := range j.Stages {
			number++
			var before *evidence.Packet
			if i > 0 {
				before = &j.Stages[i-1].Packet
			}
			d.stage(number, class, j.Title, s, before)
		}
	}
	return d.String()
}

func (d drawing) column(i int) float64 { return drawMargin + drawEdge + float64(i)*drawPitch }

// height sums up what stage draws.
func (d drawing) height() float64 {
	h := drawMargin + headHeight + 16 + drawMargin
	for _, j := range d.path.Journeys {
		for _, s := range j.Stages {
			h += stageHeight(s)
		}
	}
	return h
}

func stageHeight(s stage) float64 {
	if s.To == "" {
		return 20 + cardHeight(s.Packet) + 18
	}
	return 20 + cardHeight(s.Packet) + 14 + 22
}

func cardHeight(p evidence.Packet) float64 {
	h := 22 + 3*cardLine + 10
	if p.Encapsulated() {
		h += cardLine + 10
	}
	return h
}

// head is a machine on top of its column.
func (d drawing) head(i int, name string) {
	address, _ := d.record.Topology.Address(name)
	class, system := []string{"cl", "lb", "be"}[i], "a browser"
	if n, ok := d.record.Topology.Nodes[name]; ok {
		system = string(n.OS)
	}
	if slices.Contains(d.record.Emulated, name) {
		system += " (emulated)"
	}
	x := d.column(i)
	d.Box(x-headWidth/2, drawMargin, headWidth, headHeight, class, name)
	d.Text(x, drawMargin+22, svg.Middle, "name", svg.Plain(svg.Shortened(name, 18)))
	d.Text(x, drawMargin+39, svg.Middle, "small soft", svg.Plain(system))
	d.Text(x, drawMargin+54, svg.Middle, "mono", svg.Plain(address.String()))
}

// stage draws a packet on its way from column to column, or in the machine.
func (d *drawing) stage(number int, class, title string, s stage, before *evidence.Packet) {
	from, to := slices.Index(d.names, s.From), slices.Index(d.names, s.To)
	middle := d.column(max(from, 0))
	heading := fmt.Sprintf("%d  %s, %s", number, title, s.Title())
	if s.To == "" {
		middle = drawWidth - drawMargin - cardWidth/2
		heading = fmt.Sprintf("%d  the outer header is off, at the %s hook", number, d.hook())
	} else {
		middle = (middle + d.column(max(to, 0))) / 2
	}
	// The heading's ground hides the line of a machine that the packet passes by.
	d.Box(middle-cardWidth/2, d.y, cardWidth, 18, "paper", "")
	d.Text(middle-cardWidth/2, d.y+13, svg.Start, "small", svg.Span{Text: svg.Shortened(heading, 46), Class: "soft"})
	d.card(middle-cardWidth/2, d.y+20, s.Packet, before)
	d.y += stageHeight(s)
	if s.To != "" {
		d.Arrow(class, d.column(from), d.column(to), d.y-24)
	}
}

// hook is where the backend's decapsulation sits.
func (d drawing) hook() string {
	if d.record.Topology.Nodes[d.path.Backend].OS == topology.Windows {
		return "XDP"
	}
	return "TC"
}

// card draws a packet as boxes in boxes, from the outside in. What changed since
// before is marked.
func (d drawing) card(x, y float64, p evidence.Packet, before *evidence.Packet) {
	height := cardHeight(p)
	d.Box(x, y, cardWidth, height, "box", p.Place.String())
	mark := marker(before)
	d.Text(x+8, y+14, svg.Start, "mono tiny soft",
		mark(p.SrcMAC.String(), func(b evidence.Packet) string { return b.SrcMAC.String() }), svg.Plain(" → "),
		mark(p.DstMAC.String(), func(b evidence.Packet) string { return b.DstMAC.String() }))
	inset, at := 5.0, y+22
	if o := p.Outer; o != nil {
		d.Box(x+inset, at, cardWidth-2*inset, height-22-inset, "outer", "the outer header")
		d.Text(x+inset+7, at+14, svg.Start, "mono outer", svg.Plain(fit(fmt.Sprintf("IP-in-IP %s → %s", o.Src, o.Dst))))
		inset, at = inset+5, at+cardLine+4
	}
	bottom := y + height - inset
	d.Box(x+inset, at, cardWidth-2*inset, bottom-at, "paper", "")
	d.Box(x+inset, at, cardWidth-2*inset, bottom-at, "box", "")
	left := x + inset + 7
	d.Text(left, at+14, svg.Start, "mono", svg.Plain("IP  "),
		mark(p.IP.Src.String(), func(b evidence.Packet) string { return b.IP.Src.String() }), svg.Plain(" → "),
		mark(p.IP.Dst.String(), func(b evidence.Packet) string { return b.IP.Dst.String() }))
	protocol := "TCP "
	if p.Transport.Protocol == evidence.ProtocolUDP {
		protocol = "UDP "
	}
	d.Text(left, at+14+cardLine, svg.Start, "mono", svg.Plain(protocol),
		mark(fmt.Sprint(p.Transport.SrcPort), func(b evidence.Packet) string { return fmt.Sprint(b.Transport.SrcPort) }), svg.Plain(" → "),
		mark(fmt.Sprint(p.Transport.DstPort), func(b evidence.Packet) string { return fmt.Sprint(b.Transport.DstPort) }),
		svg.Plain("  "+flagsOf(p.Transport)))
	d.Text(left, at+14+2*cardLine, svg.Start, "small soft",
		svg.Plain(fmt.Sprintf("TTL %d, length %d, payload %d bytes", p.IP.TTL, p.IP.TotalLength, len(p.Transport.Payload))))
}

// marker returns a function that marks a text which another packet has otherwise.
func marker(before *evidence.Packet) func(string, func(evidence.Packet) string) svg.Span {
	return func(text string, of func(evidence.Packet) string) svg.Span {
		if before == nil || of(*before) == text {
			return svg.Plain(text)
		}
		return svg.Span{Text: text, Class: "mark"}
	}
}

// fit cuts a text that a card has no room for.
func fit(text string) string { return svg.Shortened(text, cardChars) }
