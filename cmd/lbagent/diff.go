package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
	"l4lab/agent/config"
)

// differs ends the command with 1, as diff(1) does.
type differs struct{ services int }

func (d differs) Error() string {
	if d.services == 1 {
		return "1 service differs"
	}
	return fmt.Sprintf("%d services differ", d.services)
}

func newDiffCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "diff [--config FILE]",
		Short: "Compare the services that are desired with those in the data path",
		Long: `Compare the services that are desired with what the data path's maps hold. Desired are those of
the agent's config file, as it read it last, or else of its state; with --config, those of a file, whether
the agent has it or not: what would become another if it had. Exit code 1 says that they differ.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&file, "config", "", "compare this config file's services (\"-\" is standard input)")
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
		diff, err := askDiff(ctx, agent, file)
		if err != nil {
			return err
		}
		if err := c.write(diff, func(t *table) { diffRows(t, diff) }); err != nil {
			return err
		}
		if !diff.Same {
			return differs{len(diff.Services)}
		}
		return nil
	})
}

func askDiff(ctx context.Context, agent api.Agent, path string) (api.Diff, error) {
	if path == "" {
		return agent.Diff(ctx)
	}
	f, err := config.Load(path, func(c *config.Config) {
		if c.Interface == "" {
			c.Interface = "-" // a flag of serve may say it
		}
	})
	if err != nil {
		return api.Diff{}, err
	}
	if f.Services == nil {
		return api.Diff{}, usageError{fmt.Errorf("%s has no services to compare", path)}
	}
	diff, err := agent.DiffWith(ctx, f.Services)
	return diff, f.Explain(err)
}

func diffRows(t *table, diff api.Diff) {
	if diff.TablesUnread {
		defer t.row("note: Maglev tables are not compared: the agent would need CAP_SYS_ADMIN to read them")
	}
	if diff.Same {
		t.row(fmt.Sprintf("no difference between the data path and what is desired (%s)", diff.Desired))
		return
	}
	t.row("SERVICE", "FRONTEND", "FIELD", "DESIRED", "ACTUAL")
	for _, s := range diff.Services {
		frontend := fmt.Sprintf("%s/%s", s.Frontend, s.Protocol)
		switch s.Change {
		case "missing":
			t.row(s.ID, frontend, "-", "there", "missing")
		case "unwanted":
			t.row(s.ID, frontend, "-", "not there", "there")
		}
		for _, f := range s.Fields {
			t.row(s.ID, frontend, f.Field, f.Desired, f.Actual)
		}
	}
}
