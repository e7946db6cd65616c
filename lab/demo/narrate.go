package demo

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Look is how a narration looks.
type Look struct {
	// Marks has checks begin with ✓ or ✗; without it, with "ok" or "FAIL".
	Marks bool
	// Color uses the terminal's colours.
	Color bool
	// Width is where sentences are broken, in columns; 0 means 100. Tables are broken
	// where they do not fit a width that is given. Output is left as it is.
	Width int
}

// Narration tells a walk as it happens. What cannot be written is lost: the walk
// does not depend on who listens.
type Narration struct {
	w    io.Writer
	look Look
	// room is what a table may take, in columns; 0: whatever it does.
	room int
}

// NewNarration returns an Observer that writes to w.
func NewNarration(w io.Writer, look Look) *Narration {
	room := 0
	if look.Width <= 0 {
		look.Width = defaultWidth
	} else {
		room = max(look.Width, minWidth)
	}
	look.Width = min(max(look.Width, minWidth), maxWidth)
	return &Narration{w, look, room}
}

// Bounds of Look.Width: sentences of more than maxWidth columns are hard to read.
const defaultWidth, minWidth, maxWidth = 100, 40, 120

// Escape sequences (ECMA-48 SGR).
const (
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
	reset  = "\x1b[0m"
)

func (n *Narration) paint(color, text string) string {
	if !n.look.Color || color == "" {
		return text
	}
	return color + text + reset
}

// indent is where the words of a step begin, margin where its output does.
const indent, margin = "   ", "   "

// StepBegins implements Observer.
func (n *Narration) StepBegins(s Step) {
	fmt.Fprintf(n.w, "\n%s\n", n.paint(bold, fmt.Sprintf("%d. %s", s.Number, s.Title)))
	if s.Command != "" {
		fmt.Fprintf(n.w, "%s%s\n", indent, n.paint(cyan, "> "+s.Command))
	}
	n.say("there", dim, s.There)
}

// Block implements Observer.
func (n *Narration) Block(b Block) {
	if b.Title != "" {
		fmt.Fprintf(n.w, "%s%s\n", margin, n.paint(dim, b.Title+":"))
	}
	switch {
	case b.Image != nil:
		head := margin + "  "
		n.hang(head, len(head), fmt.Sprintf("[picture, %d x %d] %s", b.Image.Width, b.Image.Height, b.Image.Alt))
	case b.Table != nil:
		n.table(*b.Table)
	default:
		for line := range strings.Lines(b.Text) {
			fmt.Fprintf(n.w, "%s  %s\n", margin, strings.TrimRight(line, "\n"))
		}
	}
}

// Check implements Observer.
func (n *Narration) Check(c Check) {
	mark, color := "ok  ", green
	switch {
	case n.look.Marks && c.OK:
		mark = "✓"
	case n.look.Marks:
		mark, color = "✗", red
	case !c.OK:
		mark, color = "FAIL", red
	}
	n.hang(indent+n.paint(color, mark)+" ", utf8.RuneCountInString(indent+mark)+1, c.Text)
}

// StepEnds implements Observer.
func (n *Narration) StepEnds(s Step) {
	n.say("here", "", s.Here)
	n.say("note", yellow, s.StandIn)
}

// say writes a sentence behind a word.
func (n *Narration) say(word, color, text string) {
	if text == "" {
		return
	}
	head := fmt.Sprintf("%s%-6s", indent, word)
	n.hang(n.paint(color, head), len(head), text)
}

// hang writes text behind a head of so many columns, broken at the width, each
// further line below the text's beginning.
func (n *Narration) hang(head string, columns int, text string) {
	lines := wrap(text, n.look.Width-columns)
	for i, line := range lines {
		if i > 0 {
			head = strings.Repeat(" ", columns)
		}
		fmt.Fprintf(n.w, "%s%s\n", head, line)
	}
}

// wrap breaks text at spaces into lines of a width; a longer word has a line of
// its own, and what has lines already keeps them.
func wrap(text string, width int) (lines []string) {
	for paragraph := range strings.Lines(text) {
		line := ""
		for _, word := range strings.Fields(paragraph) {
			if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
				lines, line = append(lines, line), ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		lines = append(lines, line)
	}
	return lines
}
