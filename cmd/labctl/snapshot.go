package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"l4lab/lab"
	"l4lab/topology"
)

func (a *app) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Keep what virtual machines are, memory and disks, and bring it back (--provider qemu)",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	act := func(use, short, done string, do func(*lab.Lab, context.Context, string) error) *cobra.Command {
		return &cobra.Command{
			Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if !topology.IsImageName(args[0]) {
					return usageError{fmt.Errorf("%q is no name of a snapshot: lower-case letters, digits, hyphens, dots", args[0])}
				}
				l, err := a.existing(nil)
				if err != nil {
					return err
				}
				begin := time.Now()
				if err := do(l, cmd.Context(), args[0]); err != nil {
					return err
				}
				fmt.Fprintf(a.stdout, "snapshot %s %s in %.1f s\n", args[0], done, time.Since(begin).Seconds())
				return nil
			},
		}
	}
	cmd.AddCommand(
		act("save", "Keep the state of all nodes, of one moment", "saved", (*lab.Lab).SaveSnapshot),
		act("restore", "Have all nodes go on together from a kept state", "restored", (*lab.Lab).RestoreSnapshot),
		act("rm", "Forget a kept state", "removed", (*lab.Lab).RemoveSnapshot),
		a.snapshotListCommand(),
	)
	return cmd
}

func (a *app) snapshotListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List the kept states", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := a.existing(nil)
			if err != nil {
				return err
			}
			list, err := l.Snapshots()
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(a.stdout, list)
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "SNAPSHOT\tTAKEN\tMEMORY")
			for _, s := range list {
				fmt.Fprintf(w, "%s\t%s\t%d MB\n", s.Name, s.Taken.Format(time.DateTime), s.Bytes>>20)
			}
			return w.Flush()
		},
	}
	outputFlag(cmd.Flags(), &output)
	return cmd
}
