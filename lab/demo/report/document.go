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

// document is a record made ready for both renderings.
type document struct {
	demo.Record
	// Drawing is figure 1, Paths are figure 3, Shots figure 4: the pages before and
	// after the first forced refresh, none without a browser.
	Drawing figure
	Paths   []path
	Shots   []figure
	Steps   []step
	// Agent is the key of the step with the agent's output, figure 2; "" without one.
	Agent   string
	Compare []comparison
	Usages  []usage
	Shares  []share
	Systems []inventory.System
}

// figure is a drawing or a picture, and the file that it is in. SVG or PNG is set.
type figure struct {
	File, Caption, Alt string
	SVG                string
	PNG                []byte
	Width, Height      int
}

// path is one passage: its figure, its packets hop by hop, its capture.
type path struct {
	demo.Passage
	ID, Title, Capture string
	Figure             figure
	// Journeys are one packet of the request and one of the reply.
	Journeys []journey
}

// step is a step, its blocks with what they show as figures.
type step struct {
	demo.Step
	Shown []block
}

// block is a block of a step; Figure stands for its picture, which is figure 4's
// when it is Above.
type block struct {
	demo.Block
	Figure *figure
	Above  bool
}

// usage is the table of the helpers or of the map types.
type usage struct {
	Title, What string
	Rows        []inventory.Row
}

// share is a percentage of shared code and what it counts.
type share struct {
	Whose, Counts, Lines string
	Percent              string
}

func newDocument(r demo.Record, v inventory.Inventory, shared inventory.Sharing) document {
	d := document{
		Record: r, Systems: inventory.Systems(), Shares: shares(shared), Compare: comparisons(r, shared),
		Usages: []usage{{"Helpers", "helper", v.Helpers}, {"Map types", "map type", v.MapTypes}},
	}
	status := topology.Status{}
	for _, name := range r.Topology.MachineNames() {
		status[name] = topology.MachineStatus{MAC: r.MACs[name], Emulated: slices.Contains(r.Emulated, name)}
	}
	d.Drawing = figure{
		File: topologyFile, Caption: "The topology, as the live lab has it.",
		Alt: r.Topology.Words(status), SVG: topology.SVG(r.Topology, status),
	}
	for i, p := range r.Passages {
		d.Paths = append(d.Paths, newPath(r, i, p))
	}
	pictures := 0
	for _, s := range r.Steps {
		with := step{Step: s}
		for _, b := range s.Blocks {
			shown := block{Block: b}
			if b.Image != nil {
				pictures++
				shown.Figure = &figure{
					File: fmt.Sprintf("page-%d.png", pictures), Caption: cmp.Or(b.Title, s.Title), Alt: altOf(b.Image.Alt),
					PNG: b.Image.PNG, Width: b.Image.Width, Height: b.Image.Height,
				}
				if shown.Above = len(d.Shots) < 2; shown.Above {
					d.Shots = append(d.Shots, *shown.Figure)
				}
			}
			with.Shown = append(with.Shown, shown)
		}
		if s.Key == "agent" {
			d.Agent = s.Key
		}
		d.Steps = append(d.Steps, with)
	}
	for i, caption := range []string{"before the forced refresh", "after it"} {
		if i < len(d.Shots) {
			d.Shots[i].Caption = caption
		}
	}
	return d
}

func altOf(text string) string {
	return cmp.Or(strings.Join(strings.Fields(text), " "), "A page in the browser")
}

// newPath makes a passage ready; files and anchors are by number where a mode
// comes twice.
func newPath(r demo.Record, i int, p demo.Passage) path {
	id := string(p.Mode)
	if slices.ContainsFunc(r.Passages[:i], func(q demo.Passage) bool { return q.Mode == p.Mode }) {
		id = fmt.Sprintf("%s-%d", p.Mode, i+1)
	}
	n := path{Passage: p, ID: id, Title: "SNAT: both directions cross the balancer", Journeys: journeys(r, p)}
	if p.Mode == topology.DSR {
		n.Title = "DSR: the balancer sees requests only"
	}
	if len(p.Pcapng) > 0 {
		n.Capture = id + ".pcapng"
	}
	words := describe(n)
	n.Figure = figure{File: "path-" + id + ".svg", Caption: n.Title + ".", Alt: words, SVG: drawPath(r, n, words)}
	return n
}

// describe says in words what a path's figure shows.
func describe(p path) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Packet path in mode %s.", strings.ToUpper(string(p.Mode)))
	for _, j := range p.Journeys {
		fmt.Fprintf(&b, " %s:", j.Title)
		for i, s := range j.Stages {
			if i > 0 {
				b.WriteByte(';')
			}
			fmt.Fprintf(&b, " %s", s.Title())
			if o := s.Packet.Outer; o != nil {
				fmt.Fprintf(&b, " in an outer header %s to %s", o.Src, o.Dst)
			}
			fmt.Fprintf(&b, ", %s to %s", s.Packet.Source(), s.Packet.Dest())
		}
		b.WriteByte('.')
	}
	return b.String()
}

// Good says that every check of the walk held.
func (d document) Good() bool { return d.Crosses() == 0 }

// Checks counts the checks.
func (d document) Checks() (n int) {
	for _, s := range d.Record.Steps {
		n += len(s.Checks)
	}
	return n
}

// When is the begin of the walk.
func (d document) When() string { return d.Begin.UTC().Format("2 January 2006, 15:04 UTC") }

// Where says where the machines live.
func (d document) Where() string {
	switch {
	case d.Provider == "netns":
		return "network namespaces of one Linux computer"
	case d.Simulated:
		return d.Provider + ", a simulated host"
	}
	return cmp.Or(d.Provider, "unknown")
}

// StandIns says what is not what it is called, "" when all is.
func (d document) StandIns() string {
	var list []string
	if d.Simulated {
		list = append(list, "The host of the machines is simulated.")
	}
	if len(d.Emulated) > 0 {
		list = append(list, fmt.Sprintf("%s only stand in for Windows: they run Linux, with the Windows programs' source compiled for it. Steps and figures that rest on them say so.", strings.Join(d.Emulated, ", ")))
	}
	return strings.Join(list, " ")
}

// Environment is what the report was made with, name by name.
func (d document) Environment() [][2]string {
	rows := [][2]string{
		{"Date", d.When()}, {"Duration", fmt.Sprintf("%.1f s", d.Seconds)},
		{"Lab", fmt.Sprintf("%s: %s", d.Lab, d.Where())},
		{"System", strings.TrimSpace(d.Host.System + ", kernel " + d.Host.Kernel)},
		{"Processors", fmt.Sprint(d.Host.CPUs)}, {"labctl", d.Host.Labctl},
		{"Browser", cmp.Or(d.Host.Browser, "none: the page was asked for without one")},
	}
	return rows
}

// Downloads are the files beside the page that a reader may want.
func (d document) Downloads() [][2]string {
	list := [][2]string{{recordFile, "all that was seen, as JSON"}}
	for _, p := range d.Paths {
		if p.Capture != "" {
			list = append(list, [2]string{p.Capture, "the packets of one request and its reply in " + strings.ToUpper(string(p.Mode)) + ", every place an interface; for Wireshark"})
		}
	}
	return list
}
