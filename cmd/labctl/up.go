package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"l4lab/lab"
	"l4lab/lab/plan"
	"l4lab/topology"
)

func (a *app) upCommand() *cobra.Command {
	var (
		o            lab.UpOptions
		mode, output string
		dryRun       bool
	)
	cmd := &cobra.Command{
		Use:   "up [FILE]",
		Short: "Create the lab, or converge it to the topology in FILE",
		Long: `Create the lab, or converge it to the topology in FILE ("-": standard input).

Without FILE a lab that is up already is brought back to the topology it was
made from, and otherwise the built-in five-machine demo is created. What fails
or is interrupted is taken back.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkGuests(&o.Provider); err != nil {
				return err
			}
			t, err := a.wanted(args, mode)
			if err != nil {
				return err
			}
			if err := a.checkFresh(t); err != nil {
				return err
			}
			listen := progress(a.stderr)
			if output == "json" {
				listen = jsonEvents(a.stdout)
			}
			opts, err := a.options(listen)
			if err != nil {
				return err
			}
			l := lab.Open(t.Name, opts)
			if dryRun {
				return a.dryRun(cmd.Context(), l, t, o, output)
			}
			if output == "text" {
				a.showDifferences(l, t)
			}
			steps, err := l.Up(cmd.Context(), t, o)
			if err != nil {
				return err
			}
			if output == "text" {
				a.sayUp(t, steps)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Provider, "provider", "", "where nodes live: netns, qemu (virtual machines), hyperv, or hyperv-sim, which simulates a host (default: the lab's own, or netns)")
	a.machineFlags(f)
	f.StringSliceVar(&a.fresh.Nodes, "fresh-node", nil, "make the virtual machine of this node anew, and mend the others (repeatable)")
	f.Var(choose(&mode, "", string(topology.DSR), string(topology.SNAT)), "mode", "dsr or snat, for every service (default: the topology's)")
	f.BoolVar(&dryRun, "dry-run", false, "print the plan and do nothing")
	f.BoolVar(&o.KeepOnFailure, "keep-on-failure", false, "leave what was made when something fails")
	f.VarP(choose(&output, "text", "json"), "output", "o", "text, or json: one event a line")
	return cmd
}

// checkFresh refuses nodes to be made anew that the lab does not have.
func (a *app) checkFresh(t topology.Topology) error {
	for _, name := range a.fresh.Nodes {
		if _, known := t.Nodes[name]; !known {
			return usageError{fmt.Errorf("--fresh-node %s: lab %s has no such node; it has %s", name, t.Name, strings.Join(t.NodeNames(), ", "))}
		}
	}
	return nil
}

// wanted returns the topology to bring about: the file's; without one that of
// the lab that is up; else the demo's.
func (a *app) wanted(args []string, mode string) (topology.Topology, error) {
	t, err := a.source(args)
	if err != nil {
		return t, err
	}
	if a.name != "" {
		if err := checkName(a.name); err != nil {
			return t, err
		}
		t.Name = a.name
	}
	if mode == "" {
		return t, nil
	}
	for i := range t.Services {
		t.Services[i].Mode = topology.Mode(mode)
	}
	return t, nil
}

func (a *app) source(args []string) (topology.Topology, error) {
	if len(args) == 1 {
		t, err := topology.Load(args[0])
		if err != nil {
			return t, usageError{err}
		}
		return t, nil
	}
	t := topology.Default()
	if a.name != "" {
		t.Name = a.name
	}
	if err := checkName(t.Name); err != nil {
		return t, err
	}
	o, err := a.options(nil)
	if err != nil {
		return t, err
	}
	was, err := lab.Open(t.Name, o).Topology()
	switch {
	case err == nil:
		return was, nil
	case errors.Is(err, lab.ErrNotUp):
		return t, nil
	}
	return t, err
}

func (a *app) dryRun(ctx context.Context, l *lab.Lab, t topology.Topology, o lab.UpOptions, output string) error {
	steps, err := l.Plan(ctx, t, o)
	if err != nil {
		return err
	}
	if output == "json" {
		return writeJSON(a.stdout, steps)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ACTION\tSTEP\tREASON")
	for _, s := range steps {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Action, s.ID, s.Reason)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%d of %d steps would change something.\n", len(plan.Changes(steps)), len(steps))
	return nil
}

// showDifferences says how the lab that is up differs from the one asked for.
func (a *app) showDifferences(l *lab.Lab, t topology.Topology) {
	was, err := l.Topology()
	if err != nil {
		return
	}
	changes := topology.Diff(was, t)
	if len(changes) == 0 {
		return
	}
	fmt.Fprintf(a.stderr, "lab %s is up with another topology; converging:\n", t.Name)
	for _, c := range changes {
		fmt.Fprintf(a.stderr, "  %s\n", c)
	}
}

func (a *app) sayUp(t topology.Topology, steps []plan.Step) {
	if changed := len(plan.Changes(steps)); changed == 0 {
		fmt.Fprintf(a.stdout, "lab %s is up already; nothing to change\n", t.Name)
		return
	}
	fmt.Fprintf(a.stdout, "lab %s is up", t.Name)
	for i, s := range t.Services {
		if i == 3 {
			fmt.Fprintf(a.stdout, "\n  … and %d more", len(t.Services)-i)
			break
		}
		fmt.Fprintf(a.stdout, "\n  %s/%s %s -> %s", s.Frontend(), s.Protocol, s.Mode, shortList(s.Backends, 6))
	}
	fmt.Fprintln(a.stdout)
	// UDP and an empty topology have nothing that curl could ask.
	for _, s := range t.Services {
		if s.Protocol == topology.TCP {
			fmt.Fprintf(a.stdout, "try: labctl exec --name %s %s -- curl -s http://%s/whoami\n", t.Name, t.Client.Name, s.Frontend())
			return
		}
	}
}

func shortList(items []string, limit int) string {
	if len(items) <= limit {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s … and %d more", strings.Join(items[:limit], ", "), len(items)-limit)
}

func (a *app) downCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "down", Short: "Remove everything that the lab owns", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !all {
				l, err := a.existing(progress(a.stderr))
				if err != nil {
					return err
				}
				return a.down(cmd.Context(), l)
			}
			o, err := a.options(progress(a.stderr))
			if err != nil {
				return err
			}
			names, err := lab.All(o)
			if err != nil {
				return err
			}
			if len(names) == 0 {
				fmt.Fprintln(a.stdout, "no lab is up")
			}
			var errs []error
			for _, name := range names {
				errs = append(errs, a.down(cmd.Context(), lab.Open(name, o)))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove every lab")
	return cmd
}

func (a *app) down(ctx context.Context, l *lab.Lab) error {
	removed, err := l.Down(ctx)
	if err != nil {
		return err
	}
	if removed {
		fmt.Fprintf(a.stdout, "lab %s is down\n", l.Name())
	} else {
		fmt.Fprintf(a.stdout, "lab %s is not up; nothing to remove\n", l.Name())
	}
	return nil
}

// progress prints each step as it ends, one line each.
func progress(w io.Writer) func(lab.Event) {
	return func(e lab.Event) {
		took := time.Duration(e.Seconds * float64(time.Second)).Round(time.Millisecond)
		switch e.Phase {
		case "done":
			fmt.Fprintf(w, "  ✓ %-16s %-9s %s (%s)\n", e.Step, e.Action, e.Reason, took)
		case "failed":
			if e.Step != "" {
				fmt.Fprintf(w, "  ✗ %-16s %-9s %s\n", e.Step, e.Action, e.Error)
			}
		case "undone":
			fmt.Fprintf(w, "  ↩ %-16s taken back (%s)\n", e.Step, took)
		case "undo-failed":
			fmt.Fprintf(w, "  ✗ %-16s could not be taken back: %s\n", e.Step, e.Error)
		case "warning":
			fmt.Fprintf(w, "  ! %s\n", e.Error)
		}
	}
}

func jsonEvents(w io.Writer) func(lab.Event) {
	encoder := json.NewEncoder(w)
	return func(e lab.Event) { _ = encoder.Encode(e) }
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
