package demo

import (
	"strings"
	"testing"
)

// told is a record that has one of everything.
func told() Record {
	return Record{Steps: []Step{
		{
			Number: 1, Key: "topology", Title: "The lab", There: "One Hyper-V host with one internal switch, and everything set up by hand, node by node.",
			Here: "Two machines.", StandIn: "lb only stands in for Windows.",
			Blocks: []Block{{Table: &Table{Head: []string{"NODE", "OS", "NOTE"}, Rows: [][]string{{"lb", "windows", ""}, {"client", "linux", "x"}}}}},
			Checks: []Check{{OK: true, Text: "up in 1 s"}},
		},
		{
			Number: 2, Key: "page", Title: "The page", Command: "service dumpstate --id 1", Here: "be1 answered.",
			Blocks: []Block{
				{Title: "Output", Text: "one\n  two\n"},
				{Image: &Image{Alt: "the page of be1", Width: 800, Height: 600}},
			},
			Checks: []Check{{Text: "the page names its server and its address, which is a sentence longer than a line"}, {OK: true, Text: "so it is"}},
		},
	}}
}

// narrated replays a record.
func narrated(r Record, look Look) string {
	var out strings.Builder
	n := NewNarration(&out, look)
	for _, s := range r.Steps {
		n.StepBegins(s)
		for _, b := range s.Blocks {
			n.Block(b)
		}
		for _, c := range s.Checks {
			n.Check(c)
		}
		n.StepEnds(s)
	}
	return out.String()
}

const plainNarration = `
1. The lab
   there One Hyper-V host with one internal switch, and
         everything set up by hand, node by node.
     NODE    OS       NOTE
     lb      windows
     client  linux    x
   ok   up in 1 s
   here  Two machines.
   note  lb only stands in for Windows.

2. The page
   > service dumpstate --id 1
   Output:
     one
       two
     [picture, 800 x 600] the page of be1
   FAIL the page names its server and its address, which
        is a sentence longer than a line
   ok   so it is
   here  be1 answered.
`

func TestNarrationWithoutATerminalIsPlainText(t *testing.T) {
	if got := narrated(told(), Look{Width: 58}); got != plainNarration {
		t.Errorf("got:\n%s\nwant:\n%s", got, plainNarration)
	}
}

func TestNarrationOnATerminalHasMarksAndNoColoursUnlessAskedFor(t *testing.T) {
	got := narrated(told(), Look{Width: 58, Marks: true})
	want := strings.NewReplacer(
		"   ok   ", "   ✓ ", "   FAIL the page names its server and its address, which\n        is a", "   ✗ the page names its server and its address, which is a\n    ",
	).Replace(plainNarration)
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestColoursOnlyColour(t *testing.T) {
	got := narrated(told(), Look{Width: 58, Color: true})
	if !strings.Contains(got, red+"FAIL"+reset) || !strings.Contains(got, bold+"2. The page"+reset) {
		t.Errorf("got:\n%q", got)
	}
	for _, code := range []string{bold, dim, red, green, yellow, cyan, reset} {
		got = strings.ReplaceAll(got, code, "")
	}
	if got != plainNarration {
		t.Errorf("without its colours:\n%s\nwant:\n%s", got, plainNarration)
	}
}

func TestLinesAreNeitherTooLongNorTooShort(t *testing.T) {
	long := strings.Repeat("word ", 100)
	for name, c := range map[string]struct{ width, least, most int }{
		"a terminal that is wide": {300, 100, maxWidth},
		"one that is narrow":      {10, 30, minWidth},
		"none":                    {0, 80, defaultWidth},
	} {
		longest := 0
		for line := range strings.Lines(narrated(Record{Steps: []Step{{Here: long}}}, Look{Width: c.width})) {
			longest = max(longest, len(strings.TrimRight(line, "\n")))
		}
		if longest < c.least || longest > c.most {
			t.Errorf("%s: lines of %d columns, want %d to %d", name, longest, c.least, c.most)
		}
	}
}
