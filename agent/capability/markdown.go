package capability

import (
	"fmt"
	"strings"
)

// Markdown returns the table as the README has it: a row a feature, a column a
// profile, and behind it the notes, each once.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| feature | Linux | Windows, eBPF for Windows 0.21 | Windows, XDP for Windows |\n| --- | --- | --- | --- |\n")
	var notes []string
	number := make(map[string]int)
	group := ""
	for _, f := range Table() {
		if f.Group != group {
			group = f.Group
			fmt.Fprintf(&b, "| **%s** | | | |\n", group)
		}
		fmt.Fprintf(&b, "| %s |", f.Name)
		for _, p := range Profiles() {
			s := f.On(p)
			fmt.Fprintf(&b, " %s", s.Level)
			if s.Note != "" {
				if number[s.Note] == 0 {
					notes = append(notes, s.Note)
					number[s.Note] = len(notes)
				}
				fmt.Fprintf(&b, " (%d)", number[s.Note])
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for i, n := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, n)
	}
	return b.String()
}
