package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"l4lab/e2e"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv"
	"l4lab/lab/provider/qemu"
	"l4lab/topology"
)

// partCommandName is the hidden command that processes of the suite are.
const partCommandName = "e2e-process"

func (a *app) e2eCommand() *cobra.Command {
	c := e2e.Config{Self: []string{partCommandName}}
	flags := flag.NewFlagSet("e2e", flag.ContinueOnError)
	c.Flags(flags)
	cmd := &cobra.Command{
		Use:   "e2e",
		Short: "Run the end-to-end suite with this labctl and its lbagent; exit 1 when a spec fails",
		Long: `Run the end-to-end suite on labs of its own, which it takes down: this very labctl and
the agents beside it (or those of --agent and --agent-windows) are what is tested.

What a provider lacks is left out, and the end of the output counts what was and why.
An interrupt ends the specs that run, and takes their labs down.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.Check(); err != nil {
				return usageError{err}
			}
			if err := e2eRoot(c.Provider); err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			agents, err := a.agents()
			if err != nil {
				return err
			}
			first, err := firstBoot()
			if err != nil && c.Provider == qemu.Name {
				return err
			}
			c.Programs = e2e.Programs{Labctl: self, FirstBoot: first, Agent: agents[topology.Linux], AgentWindows: agents[topology.Windows]}
			outcome, err := e2e.Run(cmd.Context(), c, a.stdout)
			if err == nil && !outcome.Succeeded {
				err = &exitCode{exitFailure}
			}
			return err
		},
	}
	cmd.Flags().AddGoFlagSet(flags)
	cmd.Flags().BoolVarP(&c.Verbose, "verbose", "v", false, "print each spec with what it did")
	return cmd
}

// e2eRoot refuses a run that every spec would fail: labs on this machine are root's.
func e2eRoot(name string) error {
	if name == hyperv.Name || os.Geteuid() == 0 {
		return nil
	}
	return &provider.MissingError{Provider: name, Missing: []provider.Requirement{{
		Name: "privileges", Fatal: true, Found: fmt.Sprintf("user %d", os.Geteuid()), Remedy: "run it as root: sudo labctl e2e",
	}}}
}

// e2ePartCommand is one process of the suite.
func (a *app) e2ePartCommand() *cobra.Command {
	return &cobra.Command{
		Use: partCommandName, Hidden: true, DisableFlagParsing: true, Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			e2e.Become(args)
			return errors.New("this command is a part of labctl e2e and nothing without it")
		},
	}
}
