package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sort"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"l4lab/agent/api"
	"l4lab/lab"
	"l4lab/lab/demo/browser"
	"l4lab/lab/guest"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv"
	"l4lab/lab/provider/netns"
	"l4lab/lab/provider/qemu"
	"l4lab/topology"
)

func (a *app) statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "status", Short: "Show nodes, services and backends; exit 1 when something is unhealthy", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.existing(nil)
			if err != nil {
				return err
			}
			st, err := l.Status(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				err = writeJSON(a.stdout, st)
			} else {
				err = printStatus(a.stdout, st)
			}
			if err == nil && !st.Healthy {
				return &exitCode{exitFailure}
			}
			return err
		},
	}
	outputFlag(cmd.Flags(), &output)
	return cmd
}

func printStatus(out io.Writer, st lab.Status) error {
	provider := st.Provider
	if st.Simulated {
		provider += ", SIMULATED"
	}
	fmt.Fprintf(out, "lab %s (%s): %s\n\n", st.Name, provider, st.Phase)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	machines := slices.ContainsFunc(st.Nodes, func(n lab.NodeStatus) bool { return n.Machine != "" })
	columns := "NODE\tROLE\tOS\tADDRESS\tSTATE\t"
	if machines {
		columns += "MACHINE\t"
	}
	fmt.Fprintln(w, columns+"HEALTH")
	for _, n := range st.Nodes {
		os := string(n.OS)
		if n.Emulated {
			os += " (emulated)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t", n.Name, n.Role, os, n.Address, n.State)
		if machines {
			fmt.Fprintf(w, "%s\t", n.Machine)
		}
		fmt.Fprintf(w, "%s %s\n", mark(n.Healthy), n.Health)
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "SERVICE\tFRONTEND\tMODE\tHEALTH")
	for _, s := range st.Services {
		fmt.Fprintf(w, "%d\t%s/%s\t%s\t%s %s\n", s.ID, s.Frontend, s.Protocol, s.Mode, mark(s.Healthy), s.Health)
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "SERVICE\tBACKEND\tADDRESS\tCONNECTIONS\tRX PACKETS\tRX BYTES\tTX PACKETS\tTX BYTES")
	for _, s := range st.Services {
		for _, b := range s.Backends {
			txPackets, txBytes := fmt.Sprint(b.TxPackets), fmt.Sprint(b.TxBytes)
			if s.Mode == string(topology.DSR) && b.TxPackets == 0 {
				txPackets, txBytes = "-", "-" // replies never pass the balancer
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", s.ID, b.Node, b.Address, b.Connections, b.RxPackets, b.RxBytes, txPackets, txBytes)
		}
	}
	return w.Flush()
}

func mark(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}

func (a *app) execCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec NODE -- CMD [ARG…]",
		Short: "Run a command in a node; its exit code and streams pass through",
		Args: func(_ *cobra.Command, args []string) error {
			if _, argv := splitExec(args); len(argv) == 0 {
				return errors.New("exec takes a node and a command: labctl exec NODE -- CMD [ARG…]")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			node, argv := splitExec(args)
			l, err := a.existing(nil)
			if err != nil {
				return err
			}
			m, err := l.Machine(node)
			if err != nil {
				return err
			}
			// The command gets the signals that labctl gets, and says itself
			// how it ended. At a terminal it has had the interrupt already.
			signals := make(chan os.Signal, 4)
			wanted := []os.Signal{syscall.SIGTERM, syscall.SIGHUP}
			if !a.atTerminal() {
				wanted = append(wanted, os.Interrupt)
			}
			signal.Notify(signals, wanted...)
			defer signal.Stop(signals)
			err = m.Guest.Run(context.WithoutCancel(cmd.Context()), guest.Command{
				Argv: argv, Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr, Signals: signals,
			})
			var exit *guest.ExitError
			switch {
			case errors.As(err, &exit):
				return &exitCode{exit.Code}
			case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
				return &codedError{err, 127} // as shells have it
			case errors.Is(err, fs.ErrPermission):
				return &codedError{err, 126}
			}
			return err
		},
	}
	// What follows the node is the command's, flags included.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// atTerminal says whether standard input is a terminal.
func (a *app) atTerminal() bool {
	f, ok := a.stdin.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// splitExec takes "NODE -- CMD…" or "NODE CMD…" apart.
func splitExec(args []string) (node string, argv []string) {
	if len(args) == 0 {
		return "", nil
	}
	argv = args[1:]
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	return args[0], argv
}

func (a *app) logsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logs NODE", Short: "Print what the node's agent and web server wrote", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.existing(nil)
			if err != nil {
				return err
			}
			logs, err := l.Logs(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if len(logs) == 0 {
				fmt.Fprintf(a.stderr, "%s has no daemon that writes a log\n", args[0])
			}
			names := make([]string, 0, len(logs))
			for name := range logs {
				names = append(names, name)
			}
			sort.Strings(names)
			var errs []error
			for _, name := range names {
				if len(names) > 1 {
					fmt.Fprintf(a.stdout, "==> %s <==\n", name)
				}
				_, err := io.Copy(a.stdout, logs[name])
				errs = append(errs, err, logs[name].Close())
			}
			return errors.Join(errs...)
		},
	}
}

func (a *app) modeCommand() *cobra.Command {
	var service uint32
	cmd := &cobra.Command{
		Use:       "mode dsr|snat",
		Short:     "Switch the services' mode live; established connections go on in theirs",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{string(topology.DSR), string(topology.SNAT)},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.existing(nil)
			if err != nil {
				return err
			}
			if err := l.Mode(cmd.Context(), service, topology.Mode(args[0])); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "lab %s: new connections use %s\n", l.Name(), args[0])
			return nil
		},
	}
	cmd.Flags().Uint32Var(&service, "service", 0, "the service's number (default: all)")
	return cmd
}

func (a *app) connectionsCommand() *cobra.Command {
	var (
		output  string
		service uint32
	)
	cmd := &cobra.Command{
		Use: "connections", Short: "Show the balancer's connections (the demo's dumpstate)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.existing(nil)
			if err != nil {
				return err
			}
			agent, err := l.Agent()
			if err != nil {
				return err
			}
			list, err := agent.Connections(cmd.Context(), service)
			if err != nil {
				return fmt.Errorf("ask the agent for its connections: %w", err)
			}
			if output == "json" {
				return writeJSON(a.stdout, slices.Concat([]api.Connection{}, list))
			}
			return printConnections(a.stdout, list)
		},
	}
	outputFlag(cmd.Flags(), &output)
	cmd.Flags().Uint32Var(&service, "service", 0, "the service's number (default: all)")
	return cmd
}

func printConnections(out io.Writer, list []api.Connection) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range api.Dumpstate(list) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func (a *app) doctorCommand() *cobra.Command {
	var output, name string
	cmd := &cobra.Command{
		Use:   "doctor [FILE]",
		Short: "Say what a provider needs, what of it this machine and its host have and lack, and what to do about it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkGuests(&name); err != nil {
				return err
			}
			o, err := a.options(nil)
			if err != nil {
				return err
			}
			t, err := a.wanted(args, "")
			if err != nil {
				return err
			}
			l := lab.Open(t.Name, o)
			if o.Drivers, err = chosen(o.Drivers, name, t); err != nil {
				return err
			}
			all := map[string][]provider.Requirement{}
			var missing error
			for _, d := range o.Drivers {
				all[d.Name] = append(d.Check(cmd.Context(), provider.Lab{Topology: t, Dir: l.Dir()}), programRequirements(o.Programs.Needed(d, t))...)
				if d.Name == netns.Name { // its client has this machine's programs
					all[d.Name] = append(all[d.Name], browserRequirement())
				}
				missing = errors.Join(missing, provider.CheckFatal(d.Name, all[d.Name]))
			}
			if output == "json" {
				err = writeJSON(a.stdout, all)
			} else {
				err = printDoctor(a.stdout, o.Drivers, all)
			}
			if err == nil && missing != nil {
				return &exitCode{exitMissing}
			}
			return err
		},
	}
	outputFlag(cmd.Flags(), &output)
	a.guestsFlag(cmd.Flags())
	cmd.Flags().StringVar(&name, "provider", "", "netns, qemu, hyperv or hyperv-sim (default: the one whose block the topology has, else netns)")
	return cmd
}

// browserRequirement is what the demo's report takes its pictures with.
func browserRequirement() provider.Requirement {
	r := provider.Requirement{Name: "browser (optional: pictures in the demo's report)", Found: "none in the PATH", Remedy: browser.Remedy}
	for _, name := range browser.Programs {
		if path, err := exec.LookPath(name); err == nil {
			r.OK, r.Found, r.Remedy = true, path, ""
			break
		}
	}
	return r
}

// chosen returns the provider of that name; of none, the one that the topology is for.
func chosen(drivers []provider.Driver, name string, t topology.Topology) ([]provider.Driver, error) {
	switch {
	case name == "" && t.Providers.HyperV != nil:
		name = hyperv.Name
	case name == "" && t.Providers.QEMU != nil:
		name = qemu.Name
	}
	var names []string
	for i, d := range drivers {
		if d.Name == name || name == "" && i == 0 {
			return []provider.Driver{d}, nil
		}
		names = append(names, d.Name)
	}
	return nil, usageError{fmt.Errorf("%w: %q; there is %s", lab.ErrUnknownProvider, name, strings.Join(names, ", "))}
}

func printDoctor(out io.Writer, drivers []provider.Driver, all map[string][]provider.Requirement) error {
	for _, d := range drivers {
		fmt.Fprintf(out, "provider %s\n", d.Name)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, r := range all[d.Name] {
			fmt.Fprintf(w, "  %s %s\t%s\n", mark(r.OK), r.Name, r.Found)
			if !r.OK && r.Remedy != "" {
				fmt.Fprintf(w, "\t→ %s\n", r.Remedy)
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}
