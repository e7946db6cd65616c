package demo

import (
	"time"

	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// Record is all that a walk-through did and saw. The narration on a terminal and
// the report are two views of it; it holds values only, so that a view can be
// tested without a lab.
type Record struct {
	// Lab is the lab's name, Provider where its machines live.
	Lab      string `json:"lab"`
	Provider string `json:"provider"`
	// Simulated says that no machine of the provider is a real one, Emulated
	// names the nodes that only stand in for their operating system.
	Simulated bool     `json:"simulated"`
	Emulated  []string `json:"emulated,omitempty"`
	// ClientOS is the client machine's: on a Hyper-V host it is the host itself.
	ClientOS topology.OS       `json:"clientOS"`
	Topology topology.Topology `json:"topology"`
	// MACs are the machines' addresses on the switch, as the live lab has them.
	MACs  map[string]string `json:"macs,omitempty"`
	Host  Host              `json:"host"`
	Begin time.Time         `json:"begin"`
	// Seconds is how long the whole walk took.
	Seconds float64 `json:"seconds"`
	Steps   []Step  `json:"steps"`
	// Passages are one request and its reply in each mode, hop by hop.
	Passages []Passage `json:"passages,omitempty"`
	// Figures are what was measured, in the order in which they are shown.
	Figures []Figure `json:"figures,omitempty"`
}

// Host is the machine that ran the walk, and with what.
type Host struct {
	System  string `json:"system"`  // "Debian GNU/Linux 12 (bookworm)"
	Kernel  string `json:"kernel"`  // "6.18.5"
	CPUs    int    `json:"cpus"`    // that the process may use
	Labctl  string `json:"labctl"`  // version and revision
	Browser string `json:"browser"` // "Chromium 156.0…"; "" when none was there
}

// Step is one step of the walk.
type Step struct {
	// Number counts from 1; Key names the step in files and links: "snat-packets".
	Number int    `json:"number"`
	Key    string `json:"key"`
	Title  string `json:"title"`
	// Command is the command line as the demo typed it, where it has one.
	Command string `json:"command,omitempty"`
	// There is what the authors of the original saw, "" for a step that it had not.
	There string `json:"there,omitempty"`
	// Here is what was seen here, one sentence.
	Here string `json:"here"`
	// StandIn says what in this step is emulated or simulated, "" when nothing is.
	StandIn string  `json:"standIn,omitempty"`
	Blocks  []Block `json:"blocks,omitempty"`
	Checks  []Check `json:"checks"`
	Seconds float64 `json:"seconds"`
}

// OK says that every check of the step held.
func (s Step) OK() bool {
	for _, c := range s.Checks {
		if !c.OK {
			return false
		}
	}
	return true
}

// Check is one expectation and whether it held.
type Check struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// Block is one thing that a step shows. Exactly one of Text, Table and Image is set.
type Block struct {
	Title string `json:"title,omitempty"`
	// Text is output as it came, lines ending in "\n".
	Text  string `json:"text,omitempty"`
	Table *Table `json:"table,omitempty"`
	Image *Image `json:"image,omitempty"`
}

// Table has one head and rows of as many cells.
type Table struct {
	Head []string   `json:"head"`
	Rows [][]string `json:"rows"`
}

// Image is a picture of what a browser showed.
type Image struct {
	// PNG is the picture's file.
	PNG []byte `json:"png"`
	// Alt says in words what is on it; Width and Height are in CSS pixels.
	Alt    string `json:"alt"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
}

// Passage is one request and its reply, as captured at every place they passed.
type Passage struct {
	Mode topology.Mode `json:"mode"`
	// Backend is the node that answered.
	Backend string `json:"backend"`
	Hops    []Hop  `json:"hops"`
	// Pcapng is the capture of all places as a file, one interface a place.
	Pcapng []byte `json:"-"`
}

// Hop is one place and the packets seen there, in order of time. Place.Machine
// and whether a packet was outgoing (Packet.Frame.Outgoing) say which side of the
// hop it is.
type Hop struct {
	Place   capture.Place     `json:"place"`
	Packets []evidence.Packet `json:"-"`
}

// Figure is one measured number with the sentence that says what it is.
type Figure struct {
	Name  string  `json:"name"` // "connections opened while the mode switched"
	Value float64 `json:"value"`
	Unit  string  `json:"unit"` // "connections", "s", "Gbit/s"
	Note  string  `json:"note,omitempty"`
}

// Number is the value as one reads it.
func (f Figure) Number() string { return number(f.Value) }

// Crosses counts the checks that did not hold.
func (r Record) Crosses() (n int) {
	for _, s := range r.Steps {
		for _, c := range s.Checks {
			if !c.OK {
				n++
			}
		}
	}
	return n
}
