package report

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"l4lab/bpf/inventory"
)

// markdown renders the same as html, with pictures and drawings beside it as files.
func (d document) markdown() []byte {
	m := &markdown{}
	m.head(d)
	m.figures(d)
	m.compare(d)
	for _, s := range d.Steps {
		m.step(s)
	}
	m.packets(d)
	m.tail(d)
	return []byte(m.String())
}

// markdown is a page in the making.
type markdown struct{ strings.Builder }

func (m *markdown) line(format string, args ...any) { fmt.Fprintf(m, format+"\n", args...) }

// special are the characters that mean something to Markdown, and to HTML in it.
var special = regexp.MustCompile("[\\\\`*_{}\\[\\]<>#+|!~&$@]")

// plain makes text that means nothing to Markdown, on one line. A number or dash that
// would begin a list stands behind something everywhere here.
func plain(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return special.ReplaceAllStringFunc(text, func(s string) string {
		switch s {
		case "<":
			return "&lt;"
		case ">":
			return "&gt;"
		case "&":
			return "&amp;"
		}
		return `\` + s
	})
}

// coded makes a code span, whatever is in it.
func coded(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	ticks := "`"
	for strings.Contains(text, ticks) {
		ticks += "`"
	}
	if strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") {
		text = " " + text + " "
	}
	// A table's cell ends at a bar, also in code.
	return ticks + strings.ReplaceAll(text, "|", `\|`) + ticks
}

// block makes a fenced block.
func (m *markdown) block(text string) {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	m.line("%s\n%s\n%s\n", fence, strings.TrimRight(text, "\n"), fence)
}

func (m *markdown) table(head []string, rows [][]string) {
	m.line("| %s |", strings.Join(head, " | "))
	m.line("|%s", strings.Repeat(" --- |", len(head)))
	for _, r := range rows {
		m.line("| %s |", strings.Join(r, " | "))
	}
	m.line("")
}

// plains makes cells of texts, empty ones visible.
func plains(texts []string) []string {
	cells := make([]string, len(texts))
	for i, t := range texts {
		cells[i] = plain(t)
	}
	return cells
}

func sign(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}

func (m *markdown) head(d document) {
	m.line("# The layer-4 load balancer demo, reproduced\n")
	m.line("In February 2022 the eBPF for Windows team showed Cilium's layer-4 load balancer on Windows. This is the same walk-through, made by `labctl demo`\n" +
		"in a live lab, beside what the authors of the original saw. [index.html](index.html) is the same as one page to download and open.\n")
	if d.Good() {
		m.line("**✓ All %d checks held.**", d.Checks())
	} else {
		m.line("**✗ %d of %d checks did not hold.**", d.Crosses(), d.Checks())
	}
	m.line("%s · lab %s · %s · %.1f s\n", d.When(), plain(d.Lab), plain(d.Where()), d.Seconds)
	if s := d.StandIns(); s != "" {
		m.line("> **What stands in for what.** %s\n", plain(s))
	}
}

func (m *markdown) figures(d document) {
	m.line("## Topology\n")
	m.picture(d.Drawing)
	m.line("**Figure 1.** %s\n", plain(d.Drawing.Caption))
	if len(d.Paths) > 0 {
		m.line("## The two packet paths\n\nOne request and its reply in each mode, drawn from captured packets. Underlined: what changed since the leg before.\n")
	}
	for i, p := range d.Paths {
		m.picture(p.Figure)
		m.line("**Figure 3%c.** %s%s\n", 'a'+i, plain(p.Figure.Caption), download(" ", p.Capture))
	}
	if len(d.Shots) == 0 {
		return
	}
	m.line("## The page in the client's browser\n")
	for _, shot := range d.Shots {
		m.picture(shot)
		m.line("%s\n", plain(shot.Caption))
	}
	m.line("**Figure 4.** The page through the VIP, in a browser that runs in the client, before and after a forced refresh.\n")
}

func (m *markdown) picture(f figure) { m.line("![%s](%s)\n", plain(f.Alt), f.File) }

func download(before, file string) string {
	if file == "" {
		return ""
	}
	return fmt.Sprintf("%s[%s](%s)", before, file, file)
}

func (m *markdown) compare(d document) {
	m.line("## There and here\n")
	var rows [][]string
	for _, c := range d.Compare {
		rows = append(rows, plains([]string{c.What, c.There, c.Here}))
	}
	m.table([]string{"", "The original, 2022", "Here"}, rows)
	rows = nil
	for _, s := range d.Steps {
		there := s.There
		if there == "" {
			there = "– (not part of the original)"
		}
		rows = append(rows, []string{fmt.Sprintf("%d. %s", s.Number, plain(s.Title)), plain(there), plain(s.Here + " " + s.StandIn), sign(s.OK())})
	}
	m.line("### Step by step\n")
	m.table([]string{"Step", "The authors saw", "Seen here", "Held"}, rows)
	m.line("## The steps\n")
}

func (m *markdown) step(s step) {
	m.line("<a id=\"step-%s\"></a>\n", anchor(s.Key))
	m.line("### %d. %s\n", s.Number, plain(s.Title))
	if s.Command != "" {
		m.block("> " + s.Command)
	}
	if s.There != "" {
		m.line("*The authors saw:* %s\n", plain(s.There))
	}
	m.line("*Seen here:* %s\n", plain(s.Here))
	if s.StandIn != "" {
		m.line("*Stand-in:* %s\n", plain(s.StandIn))
	}
	for _, b := range s.Shown {
		if b.Title != "" {
			m.line("**%s**\n", plain(b.Title))
		}
		switch {
		case b.Figure != nil:
			m.picture(*b.Figure)
		case b.Table != nil:
			var rows [][]string
			for _, r := range b.Table.Rows {
				rows = append(rows, plains(r))
			}
			m.table(plains(b.Table.Head), rows)
		default:
			m.block(b.Text)
		}
	}
	for _, c := range s.Checks {
		m.line("- %s %s", sign(c.OK), plain(c.Text))
	}
	m.line("")
}

// anchor keeps of a key what an anchor is made of.
func anchor(key string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, key)
}

func (m *markdown) packets(d document) {
	if len(d.Paths) > 0 {
		m.line("## Packets, before and after each hop\n\nIn bold: what changed since the leg before.\n")
	}
	for _, p := range d.Paths {
		m.line("### %s\n", plain(p.Title))
		for _, j := range p.Journeys {
			m.line("#### %s\n", j.Title)
			head := []string{"Header field"}
			for _, s := range j.Stages {
				head = append(head, plain(s.Title()+", at "+s.Place()))
			}
			var rows [][]string
			for _, r := range j.Rows() {
				cells := []string{r.Field}
				for _, c := range r.Cells {
					cells = append(cells, marked(c))
				}
				rows = append(rows, cells)
			}
			m.table(head, rows)
		}
		if p.Capture != "" {
			m.line("All of them, at every place:%s\n", download(" ", p.Capture))
		}
	}
}

func marked(c cell) string {
	text := "–"
	if c.Text != "" {
		text = plain(c.Text)
	}
	if c.Changed {
		return "**" + text + "**"
	}
	return text
}

func (m *markdown) tail(d document) {
	if len(d.Figures) > 0 {
		var rows [][]string
		for _, f := range d.Figures {
			rows = append(rows, []string{plain(f.Name), f.Number() + " " + plain(f.Unit), plain(f.Note)})
		}
		m.line("## Figures\n\nMeasured in this run, on this machine; they are no benchmark.\n")
		m.table([]string{"What", "Value", "Note"}, rows)
	}
	m.line("## Helpers and map types\n\nThe original's list, and what this project's objects use: read from the objects. A cell names the programs that use something.\n")
	for _, u := range d.Usages {
		m.usage(u)
	}
	m.line("## Shared code\n")
	var rows [][]string
	for _, s := range d.Shares {
		rows = append(rows, []string{plain(s.Whose), plain(s.Counts), plain(s.Lines), "**" + s.Percent + "**"})
	}
	m.table([]string{"Whose", "What is counted", "Lines", "Share"}, rows)
	m.line("The two are not the same measure: theirs says how much of a finished Linux program could stay, ours how much of one source both systems compile.\n")
	m.line("## Versions and files\n")
	rows = nil
	for _, e := range d.Environment() {
		rows = append(rows, plains(e[:]))
	}
	m.table([]string{"", ""}, rows)
	for _, f := range d.Downloads() {
		m.line("- [%s](%s): %s", f[0], f[0], plain(f[1]))
	}
}

func (m *markdown) usage(u usage) {
	head := []string{u.What, "The original"}
	for _, s := range inventory.Systems() {
		head = append(head, plain(s.String()))
	}
	var rows [][]string
	for _, r := range u.Rows {
		cells := []string{coded(r.Name), plain(r.Demo)}
		for _, s := range inventory.Systems() {
			var names []string
			for _, n := range r.On(s) {
				names = append(names, coded(n))
			}
			cells = append(cells, strings.Join(names, ", "))
		}
		for i, c := range cells {
			if c == "" {
				cells[i] = "–"
			}
		}
		// The notes are Markdown already.
		rows = append(rows, append(cells, r.Note))
	}
	m.line("### %s\n", u.Title)
	m.table(slices.Concat(head, []string{"Note"}), rows)
}
