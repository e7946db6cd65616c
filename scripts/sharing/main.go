// Command sharing counts how much of the eBPF source both systems compile: source
// lines compiled for Linux and for Windows over all that are compiled for Linux.
//
//	sharing [-readme README.md] [-json FILE] [-check] [BPF-FOLDER]
//
// A source line is a line with anything on it but blanks and comments; a lone brace
// counts, as it does for cloc, and so do #define and #include. Which lines are
// compiled is clang's answer, not this program's: each stretch between #if, #else
// and #endif is marked, and what `clang -E` copies to its output of a program's
// translation unit is live in it. A line that both systems compile with
// different meaning, through a macro of platform/, counts as shared: that is what
// sharing means. Whether shared code does the same on both is for the tests to say.
//
// With -readme, the table between `<!-- sharing:begin -->` and `<!-- sharing:end -->`
// is rewritten, with -json the sums are written as package bpf/inventory embeds them;
// with -check both are compared, and exit code 1 means that one is old.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"

	"l4lab/bpf/inventory"
)

// The marks around the table in the README.
const (
	begin = "<!-- sharing:begin -->\n"
	end   = "<!-- sharing:end -->\n"
)

func main() {
	readme := flag.String("readme", "", "file whose marked block is rewritten")
	sums := flag.String("json", "", "file for the sums")
	check := flag.Bool("check", false, "compare, do not write")
	flag.Parse()
	folder := "bpf"
	if flag.NArg() > 0 {
		folder = flag.Arg(0)
	}
	if err := run(os.Stdout, folder, *readme, *sums, *check); err != nil {
		fmt.Fprintln(os.Stderr, "sharing:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, folder, readme, sums string, check bool) error {
	r, err := measure(folder)
	if err != nil {
		return err
	}
	if err := r.print(out); err != nil {
		return err
	}
	if readme != "" {
		was, err := os.ReadFile(readme)
		if err != nil {
			return err
		}
		now, err := replaceBlock(string(was), r.markdown())
		if err != nil {
			return fmt.Errorf("%s: %w", readme, err)
		}
		if err := keep(readme, now, check); err != nil {
			return err
		}
	}
	if sums == "" {
		return nil
	}
	now, err := json.MarshalIndent(inventory.Sharing{XDP: r.xdp.lines(), All: r.all.lines()}, "", "  ")
	if err != nil {
		return err
	}
	return keep(sums, string(now)+"\n", check)
}

// keep writes a file that has another text, or says that it has.
func keep(file, text string, check bool) error {
	was, err := os.ReadFile(file)
	switch {
	case err == nil && string(was) == text:
		return nil
	case check:
		return fmt.Errorf("%s has other figures: run make sharing", file)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func (t tally) lines() inventory.Lines { return inventory.Lines{Linux: t.linux, Both: t.both} }

// print writes every file that has lines of Linux alone, and the sums.
func (r report) print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "SOURCE LINES\tLINUX\tBOTH\tLINUX ALONE\t\t")
	shared := tally{}
	for _, name := range r.names() {
		f := r.files[name]
		if f.linux == f.both {
			shared.linux, shared.both = shared.linux+f.linux, shared.both+f.both
			continue
		}
		fmt.Fprintf(t, "bpf/%s\t%d\t%d\t%d\t\t\n", name, f.linux, f.both, f.linux-f.both)
	}
	fmt.Fprintf(t, "all other files\t%d\t%d\t0\t\t\n", shared.linux, shared.both)
	for _, sum := range []struct {
		name string
		tally
	}{{"the XDP programs", r.xdp}, {"with the TC program", r.all}} {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%.1f %%\t\n", sum.name, sum.linux, sum.both, sum.linux-sum.both, sum.share())
	}
	return t.Flush()
}

// markdown is the table of the README.
func (r report) markdown() string {
	var b strings.Builder
	b.WriteString("| source lines | compiled for Linux | of these for Windows too | share |\n| --- | --- | --- | --- |\n")
	for _, sum := range []struct {
		name string
		tally
	}{
		{"the XDP programs: balancer and decapsulation", r.xdp},
		{"with the TC decapsulation, which only Linux has", r.all},
	} {
		fmt.Fprintf(&b, "| %s | %d | %d | **%.1f %%** |\n", sum.name, sum.linux, sum.both, sum.share())
	}
	return b.String()
}

// replaceBlock puts a table between the marks.
func replaceBlock(text, table string) (string, error) {
	before, rest, ok := strings.Cut(text, begin)
	if !ok {
		return "", errors.New("no line " + strings.TrimSpace(begin))
	}
	_, after, ok := strings.Cut(rest, end)
	if !ok {
		return "", errors.New("no line " + strings.TrimSpace(end) + " behind it")
	}
	return before + begin + table + end + after, nil
}
