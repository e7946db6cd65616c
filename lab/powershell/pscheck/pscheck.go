// Package pscheck holds PowerShell scripts against what is known of them
// without running them: their syntax (a kept grammar, tree-sitter-powershell,
// run by node), the cmdlets, parameters and values that Microsoft documents
// (cmdlets.tsv), the Go types of their parameters and results, and the rules
// of this project: nothing is executed that was put together from text.
//
//	trees, err := pscheck.Parse(ctx, dir, files)
//	table, err := pscheck.ReadTable()
//	for _, f := range pscheck.Commands(script, table, rules) { … }
//
// It is used by tests only. What it cannot see (what a cmdlet does, what its
// objects' properties are called) is listed in docs/windows.md.
package pscheck

import (
	"fmt"
	"strings"
)

// Script is a script with its syntax tree.
type Script struct {
	// Name is the file's without its extension.
	Name, Text string
	Root       *Node
}

// Node is a node of a syntax tree; the types are those of the grammar.
type Node struct {
	Type  string `json:"t"`
	Named int    `json:"n"`
	// Start and End are offsets in the text, Row counts lines from 0.
	Start int `json:"s"`
	End   int `json:"e"`
	Row   int `json:"r"`
	// Broken is 1 for an error, or for something that is missing here.
	Broken   int     `json:"x"`
	Children []*Node `json:"c"`
}

// Finding is something wrong with a script.
type Finding struct {
	Script string
	// Line counts from 1; 0 is the whole script.
	Line int
	Text string
}

func (f Finding) String() string { return fmt.Sprintf("%s.ps1:%d: %s", f.Script, f.Line, f.Text) }

func (s Script) finding(n *Node, format string, args ...any) Finding {
	f := Finding{Script: s.Name, Text: fmt.Sprintf(format, args...)}
	if n != nil {
		f.Line = n.Row + 1
	}
	return f
}

// text returns a node's piece of the script.
func (s Script) text(n *Node) string { return s.Text[n.Start:n.End] }

// walk calls visit for a node and all below it, a parent before its children;
// visit returns whether it wants the children.
func (n *Node) walk(visit func(*Node) bool) {
	if !visit(n) {
		return
	}
	for _, c := range n.Children {
		c.walk(visit)
	}
}

// all returns the nodes of a type.
func (n *Node) all(kind string) []*Node {
	var found []*Node
	n.walk(func(c *Node) bool {
		if c.Type == kind {
			found = append(found, c)
		}
		return true
	})
	return found
}

// child returns the first child of a type, nil when there is none.
func (n *Node) child(kind string) *Node {
	for _, c := range n.Children {
		if c.Type == kind {
			return c
		}
	}
	return nil
}

// bare goes down through the layers that the grammar puts around an operand
// that has no operator.
func (n *Node) bare() *Node {
	for len(n.Children) == 1 {
		n = n.Children[0]
	}
	return n
}

// Syntax returns what the grammar cannot read.
func Syntax(s Script) []Finding {
	var found []Finding
	s.Root.walk(func(n *Node) bool {
		if n.Broken != 0 {
			piece, _, _ := strings.Cut(s.text(n), "\n")
			found = append(found, s.finding(n, "syntax error at %q", piece))
		}
		return n.Broken == 0
	})
	return found
}

// maxLine is how long a line of a script may be.
const maxLine = 170

// Text checks what needs no syntax tree: ASCII, which is the same in every code
// page that Windows PowerShell may take a file for, no carriage returns, no
// tabs or trailing space, lines that can be read, a final newline.
func Text(name, text string) []Finding {
	var found []Finding
	s := Script{Name: name, Text: text}
	add := func(line int, format string, args ...any) {
		found = append(found, s.finding(&Node{Row: line}, format, args...))
	}
	if !strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "\n\n") {
		add(strings.Count(text, "\n"), "does not end with one newline")
	}
	for i, line := range strings.Split(text, "\n") {
		if strings.ContainsAny(line, "\r\t") {
			add(i, "has a tab or a carriage return")
		}
		if strings.TrimRight(line, " ") != line {
			add(i, "ends with a space")
		}
		if len(line) > maxLine {
			add(i, "has %d characters, at most %d can be read", len(line), maxLine)
		}
		if strings.IndexFunc(line, func(r rune) bool { return r > '~' }) >= 0 {
			add(i, "is not ASCII")
		}
	}
	return found
}
