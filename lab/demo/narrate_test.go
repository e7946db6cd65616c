package demo

import (
	"strings"
	"testing"
	"unicode/utf8"
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

func TestTablesFitTheTerminal(t *testing.T) {
	table := Table{Head: []string{"NODE", "COMMAND", "MAC"}, Rows: [][]string{
		{"be1", "lbagent service update --backends=20.1.1.10:80,20.1.1.20:80,20.1.1.30:80,20.1.1.40:80", "02:4c:14:01:01:0a"},
		{"ß", "short", "02:4c:14:01:01:14"},
	}}
	words := func(text string) string { return strings.Join(strings.Fields(strings.ReplaceAll(text, " ", "")), "") }
	for name, c := range map[string]struct{ width, most, lines int }{
		"a terminal that is wide enough": {200, 200, 3},
		"one that is narrow":             {60, 60, 6},
		"one that is very narrow":        {20, minWidth, 11},
		"none":                           {0, 200, 3},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			NewNarration(&out, Look{Width: c.width}).Block(Block{Table: &table})
			lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
			for _, line := range lines {
				if n := utf8.RuneCountInString(line); n > c.most {
					t.Errorf("a line of %d columns, want at most %d: %s", n, c.most, line)
				}
			}
			if len(lines) != c.lines {
				t.Errorf("%d lines, want %d:\n%s", len(lines), c.lines, out.String())
			}
			if c.lines == 3 && words(lines[1]) != words(strings.Join(table.Rows[0], "")) {
				t.Errorf("the row has become %q", lines[1])
			}
		})
	}
}
