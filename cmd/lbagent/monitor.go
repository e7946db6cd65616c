package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
)

func newMonitorCommand() *cobra.Command {
	var (
		flags clientFlags
		query api.EventQuery
		kinds string
	)
	cmd := &cobra.Command{
		Use:   "monitor [--service N] [--kind new,closed,dropped] [--rate N]",
		Short: "Show what happens to flows, until it is interrupted",
		Long: `Show what happens to flows, a line each, until it is interrupted: the first packet of a new
one, its end as far as the balancer sees it, and each packet that is dropped. With -o json a line is
an object. The data path sends events only while somebody listens, and no more than --rate on each
CPU in a second, of all listeners the highest; what was left out is said at the end.`,
		Example: "  lbagent monitor --service 1 --kind dropped",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if query.Kinds, err = api.ParseEventKinds(kinds); err != nil {
				return usageError{fmt.Errorf("--kind: %w", err)}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return monitor(ctx, api.NewUnixClient(flags.socket), query, flags.output.format == "json", cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags.add(cmd)
	cmd.Flags().Uint32Var(&query.ServiceID, "service", 0, "only of this service")
	cmd.Flags().StringVar(&kinds, "kind", "", "only these, with commas: new, closed, dropped")
	cmd.Flags().Uint32Var(&query.Rate, "rate", 0, fmt.Sprintf("events a second and CPU (default %d)", api.DefaultEventRate))
	return cmd
}

// monitor prints events until ctx ends, which is no error, or the agent does.
func monitor(ctx context.Context, agent api.Observer, query api.EventQuery, asJSON bool, out, errOut io.Writer) error {
	var loss api.EventLoss
	var shown uint64
	encoder := json.NewEncoder(out)
	err := agent.Events(ctx, query, func(m api.EventMessage) error {
		if m.Loss != nil {
			loss = *m.Loss
		}
		if m.Event == nil {
			return nil
		}
		shown++
		if asJSON {
			return encoder.Encode(m.Event)
		}
		_, err := fmt.Fprintln(out, eventLine(*m.Event))
		return err
	})
	interrupted := errors.Is(err, context.Canceled) && ctx.Err() != nil
	if err != nil && !interrupted {
		return err
	}
	if !interrupted {
		_, _ = fmt.Fprintln(errOut, "the agent ended")
	}
	_, err = fmt.Fprintf(errOut, "%d events; not shown: %d beyond the rate, %d lost in the data path, %d for which this was too slow\n",
		shown, loss.Suppressed, loss.Lost, loss.Missed)
	return err
}

func eventLine(e api.FlowEvent) string {
	text := fmt.Sprintf("%s %-7s %s %s > %s", e.Time.Local().Format("15:04:05.000"), e.Kind, e.Protocol, e.Source, e.Dest)
	for _, part := range []struct {
		is         bool
		name, what string
	}{
		{e.Backend.IsValid(), "backend", e.Backend.String()},
		{e.ServiceID != 0, "service", fmt.Sprint(e.ServiceID)},
		{e.Mode != "", "mode", e.Mode},
		{e.Reason != "", "reason", e.Reason},
	} {
		if part.is {
			text += " " + part.name + " " + part.what
		}
	}
	return strings.TrimSpace(text)
}
