package provider

import "slices"

// Fresh says which existing virtual machines are made anew instead of being mended.
// The zero value is none.
type Fresh struct {
	// All of them, and no state that was kept of an earlier lab is gone on from.
	All bool
	// Nodes are the names of some.
	Nodes []string
}

// Of says whether a node's machine is made anew.
func (f Fresh) Of(node string) bool { return f.All || slices.Contains(f.Nodes, node) }

// Any says whether a machine is.
func (f Fresh) Any() bool { return f.All || len(f.Nodes) > 0 }
