// Command mutants breaks the product on purpose, one fault at a time, and has the
// end-to-end suite find each (e2e/mutants has the faults, `make mutants` runs this).
//
//	mutants [-list] [-run NAME,…] [-keep DIR] [-readme FILE] [TREE]
//
// The tree's tracked and new files are copied to a temporary folder; all else happens
// there. The suite is built once, of the tree as it is, and must pass the specs that the
// mutants name. Then, for each mutant: its source is changed, the eBPF objects that
// include it are compiled, labctl and lbagent are built, and the suite is run with
// them, focused on the spec that is to fail. A mutant is caught when that spec itself fails and
// shows what the mutant's file says. It wants root, as a lab does, and clang-19.
// With -readme, the list of the mutants in a file is rewritten, and none is run.
//
// An interrupt ends the run once the labs of the spec that runs are down; the table then
// has what was tried, and the error says how to try the rest.
//
// Exit code 1: a mutant was not caught, or could not be tried.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"l4lab/e2e/mutants"
)

func main() {
	list := flag.Bool("list", false, "print the mutants and run none")
	names := flag.String("run", "", "run these alone: names, with commas between")
	keep := flag.String("keep", "", "write what the suite printed of each mutant, and its artifacts, into this `folder`")
	readme := flag.String("readme", "", "file whose list of mutants is rewritten; none is run")
	flag.Parse()
	tree := "."
	if flag.NArg() > 0 {
		tree = flag.Arg(0)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *readme != "" {
		err = rewrite(*readme)
	} else {
		err = run(ctx, os.Stdout, tree, *names, *keep, *list)
	}
	if err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, tree, names, keep string, list bool) error {
	all, err := mutants.All()
	if err != nil {
		return err
	}
	if all, err = choose(all, names); err != nil {
		return err
	}
	if list {
		return printList(out, all)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root: the suite makes network namespaces")
	}
	bench, err := newBench(ctx, tree, keep)
	if err == nil {
		defer bench.close()
	}
	if ctx.Err() != nil {
		return stopped(out, nil, all)
	}
	if err != nil {
		return err
	}
	begin := time.Now()
	err = bench.baseline(ctx, all)
	if ctx.Err() != nil {
		return stopped(out, nil, all)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "the tree as it is passes the specs of %d mutants (%s)\n", len(all), time.Since(begin).Round(time.Second))
	var verdicts []verdict
	for i, m := range all {
		v := bench.try(ctx, m)
		if ctx.Err() != nil {
			return stopped(out, verdicts, all[i:])
		}
		fmt.Fprintln(out, v)
		verdicts = append(verdicts, v)
	}
	return report(out, verdicts)
}

// rewrite lists the mutants in a file.
func rewrite(readme string) error {
	all, err := mutants.All()
	if err != nil {
		return err
	}
	was, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	is, err := mutants.List(string(was), all)
	if err != nil {
		return fmt.Errorf("%s: %w", readme, err)
	}
	return os.WriteFile(readme, []byte(is), 0o644)
}

// choose returns the mutants of these names, all without any.
func choose(all []mutants.Mutant, names string) ([]mutants.Mutant, error) {
	if names == "" {
		return all, nil
	}
	var chosen []mutants.Mutant
	for _, name := range strings.Split(names, ",") {
		at := slices.IndexFunc(all, func(m mutants.Mutant) bool { return m.Name == name })
		if at < 0 {
			return nil, fmt.Errorf("there is no mutant %q; -list prints them", name)
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}

func printList(out io.Writer, all []mutants.Mutant) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, m := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\n", m.Name, m.File, m.Breaks)
	}
	return table.Flush()
}
