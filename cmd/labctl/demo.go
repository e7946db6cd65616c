package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"l4lab/lab"
	"l4lab/lab/demo"
	"l4lab/lab/demo/browser"
	"l4lab/lab/demo/report"
	"l4lab/lab/guest"
	"l4lab/topology"
)

// walkFlags are the demo command's.
type walkFlags struct {
	keep, step, fast bool
	output, report   string
	up               lab.UpOptions
}

func (a *app) demoCommand() *cobra.Command {
	var f walkFlags
	cmd := &cobra.Command{
		Use:   "demo [FILE]",
		Short: "Walk through the demo: a lab comes up, shows both paths, and goes away; exit 1 when a check fails",
		Long: `Bring a lab up, walk through the demo of 2022 with its own command lines and through
what it could not show, and take the lab down. Each step says what its authors saw
("there") and what was seen here, with checks.

On a terminal the steps follow one another with a short pause, or with --step when a
key is pressed; --fast leaves the pauses out. Elsewhere there are none. Colours and
signs are for terminals alone; NO_COLOR leaves the colours out.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkGuests(&f.up.Provider); err != nil {
				return err
			}
			return a.demo(cmd.Context(), f, args)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.keep, "keep", false, "leave the lab up")
	flags.BoolVar(&f.step, "step", false, "wait for a key between the steps; needs a terminal")
	flags.BoolVar(&f.fast, "fast", false, "no pauses between the steps")
	flags.StringVar(&f.report, "report", "", "write a report of what was seen into this folder")
	outputFlag(flags, &f.output)
	flags.StringVar(&f.up.Provider, "provider", "", "where nodes live: netns (default), qemu, hyperv or hyperv-sim")
	a.machineFlags(flags)
	return cmd
}

// views are what a walk is shown by besides its narration. Without write there
// are no reports, without browser no pictures.
type views struct {
	check   func(dir string) error
	write   func(dir string, r demo.Record) error
	browser func(l *lab.Lab, client string) demo.Browser
}

// walkViews is the one place where reports and browsers come in.
func walkViews() views {
	return views{
		check: report.Check,
		write: report.Write,
		browser: func(l *lab.Lab, client string) demo.Browser {
			return browser.In(func() (guest.Guest, error) {
				m, err := l.Machine(client)
				return m.Guest, err
			})
		},
	}
}

func (a *app) demo(ctx context.Context, f walkFlags, args []string) error {
	v := walkViews()
	if err := a.checkWalk(f, v); err != nil {
		return err
	}
	t, err := a.walkTopology(args)
	if err != nil {
		return err
	}
	o, err := a.options(nil)
	if err != nil {
		return err
	}
	l := lab.Open(t.Name, o)
	if _, err := l.Topology(); err == nil {
		return fmt.Errorf("lab %s is up already; `labctl down --name %s` first, or give the demo another --name", t.Name, t.Name)
	} else if !errors.Is(err, lab.ErrNotUp) {
		return err
	}
	record, made, err := demo.Run(ctx, l, t, a.walkOptions(f, v, l, t))
	if errors.Is(err, demo.ErrNoPage) {
		return usageError{err}
	}
	if made && !f.keep {
		err = a.takeAway(ctx, l, f, err)
	}
	if made && f.report != "" {
		err = errors.Join(err, v.write(f.report, record))
	}
	if made && f.output == "json" {
		err = errors.Join(err, writeJSON(a.stdout, record))
	}
	return err
}

// checkWalk refuses what cannot be, before anything is made.
func (a *app) checkWalk(f walkFlags, v views) error {
	switch {
	case f.step && f.fast:
		return usageError{errors.New("--step waits between steps and --fast does not; leave one of them out")}
	case f.step && f.output == "json":
		return usageError{errors.New("--step waits between steps that -o json does not show; leave one of them out")}
	case f.step && !(isTerminal(a.stdin) && isTerminal(a.stdout)):
		return usageError{errors.New("--step waits for a key, and standard input and output are no terminal; leave it out, or run labctl on one")}
	case f.report == "":
		return nil
	case v.write == nil:
		return usageError{errors.New("--report: this labctl writes no reports")}
	}
	return v.check(f.report)
}

// walkTopology is the file's, or the demo's, under a name of its own: a lab that
// is up is not disturbed.
func (a *app) walkTopology(args []string) (t topology.Topology, err error) {
	t = topology.Default()
	if len(args) == 1 {
		if t, err = topology.Load(args[0]); err != nil {
			return t, usageError{err}
		}
	}
	t.Name = "demo"
	if a.name != "" {
		t.Name = a.name
	}
	return t, checkName(t.Name)
}

// pace is the pause between two steps on a terminal.
const pace = time.Second

func (a *app) walkOptions(f walkFlags, v views, l *lab.Lab, t topology.Topology) demo.Options {
	o := demo.Options{Up: f.up, Labctl: version()}
	if v.browser != nil && f.report != "" {
		o.Browser = v.browser(l, t.Client.Name)
	}
	if f.output == "json" {
		return o
	}
	terminal := isTerminal(a.stdout)
	o.Observer = demo.NewNarration(a.stdout, demo.Look{Marks: terminal, Color: terminal && os.Getenv("NO_COLOR") == "", Width: a.width()})
	switch {
	case f.step:
		keys := keyboard{in: a.stdin, out: a.stdout, raw: a.rawTerminal}
		o.Between = keys.wait
	case terminal && !f.fast:
		o.Between = func(ctx context.Context, _ demo.Step) error {
			select {
			case <-time.After(pace):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return o
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// width is the terminal's, 0 where there is none.
func (a *app) width() int {
	f, ok := a.stdout.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// rawTerminal has keys come as they are pressed, until restore is called.
func (a *app) rawTerminal() (restore func() error, err error) {
	f, ok := a.stdin.(*os.File)
	if !ok {
		return nil, errors.New("standard input is no terminal")
	}
	was, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("have the terminal hand keys over as they are pressed: %w", err)
	}
	return func() error { return term.Restore(int(f.Fd()), was) }, nil
}

// takeLimit bounds taking a lab down after its use.
const takeLimit = time.Minute

// takeAway removes a lab after its use, also when the use ended with an error
// or an interrupt.
func (a *app) takeAway(ctx context.Context, l *lab.Lab, f walkFlags, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeLimit)
	defer cancel()
	if _, err := l.Down(ctx); err != nil {
		return errors.Join(cause, err)
	}
	var out io.Writer = a.stdout
	if f.output == "json" {
		out = a.stderr
	}
	fmt.Fprintf(out, "\nlab %s is down\n", l.Name())
	return cause
}
