package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
)

func newHealthCommand() *cobra.Command {
	return clientCommand(&cobra.Command{
		Use:   "health",
		Short: "List the backends that are checked, and what their last checks said",
		Args:  cobra.NoArgs,
	}, func(ctx context.Context, agent api.Agent, c *call) error {
		all, err := agent.Health(ctx)
		if err != nil {
			return err
		}
		return c.write(all, func(t *table) { healthRows(t, all) })
	})
}

func healthRows(t *table, all []api.BackendHealth) {
	t.row("SERVICE", "BACKEND", "HEALTH", "LAST CHECK", "IN A ROW", "TOOK", "ERROR")
	for _, h := range all {
		result, took := dash(h.Result), "-"
		if h.Paused {
			result = "paused"
		}
		if h.Result != "" {
			took = time.Duration(h.Duration * float64(time.Second)).Round(10 * time.Microsecond).String()
		}
		t.row(h.ServiceID, h.Backend, h.Health, result, h.Consecutive, took, dash(h.Error))
	}
}
