package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
)

// backendFlags name one backend of a service.
type backendFlags struct {
	id      uint32
	backend string
}

func (f *backendFlags) add(cmd *cobra.Command) {
	cmd.Flags().Uint32Var(&f.id, "id", 0, "number of the service")
	cmd.Flags().StringVar(&f.backend, "backend", "", "the backend's address and port")
	require(cmd, "id", "backend")
}

// changeTries is how often a change is tried that others get ahead of.
const changeTries = 5

// change edits the backend and leaves the rest of its service as it is, also when
// somebody else changes it just then.
func (f *backendFlags) change(ctx context.Context, agent api.Agent, edit func(*api.Backend)) (api.Service, error) {
	address, err := parseEndpoint("--backend", f.backend)
	if err != nil {
		return api.Service{}, err
	}
	for try := 1; ; try++ {
		stored, err := changeOnce(ctx, agent, f.id, address, edit)
		if !errors.Is(err, api.ErrConflict) || try == changeTries {
			return stored, err
		}
	}
}

func changeOnce(ctx context.Context, agent api.Agent, id uint32, address netip.AddrPort, edit func(*api.Backend)) (api.Service, error) {
	s, err := agent.Service(ctx, id)
	if err != nil {
		return api.Service{}, err
	}
	i := slices.IndexFunc(s.Backends, func(b api.Backend) bool { return b.Address == address })
	if i < 0 {
		return api.Service{}, usageError{fmt.Errorf("--backend: service %d has no backend %s", id, address)}
	}
	edit(&s.Backends[i])
	return agent.PutService(ctx, s)
}

func newDrainCommand() *cobra.Command {
	var (
		flags    backendFlags
		deadline time.Duration
	)
	cmd := &cobra.Command{
		Use:   "drain --id N --backend ADDRESS:PORT [--deadline 30s]",
		Short: "Take a backend out of a service without cutting its connections",
		Long: `Take a backend out of a service without cutting its connections: it gets no new ones, and
leaves when the last of those that it has has ended, or at the deadline. That none is left is seen within
20 seconds. "service state … active" takes it back until then.`,
		Args: cobra.NoArgs,
	}
	flags.add(cmd)
	cmd.Flags().DurationVar(&deadline, "deadline", 0, "cut what is left after this time (default never)")
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
		if deadline < 0 {
			return usageError{fmt.Errorf("--deadline: %s is past", deadline)}
		}
		stored, err := flags.change(ctx, agent, func(b *api.Backend) {
			b.State, b.DrainUntil = "draining", nil
			if deadline > 0 {
				until := time.Now().Add(deadline)
				b.DrainUntil = &until
			}
		})
		if err != nil {
			return err
		}
		return c.say(stored, "service %d: %s is draining", stored.ID, flags.backend)
	})
}

func newWeightCommand() *cobra.Command {
	var (
		flags  backendFlags
		weight uint16
	)
	cmd := &cobra.Command{
		Use:   "weight --id N --backend ADDRESS:PORT --weight 0…1000",
		Short: "Set a backend's share of new connections; 0 gives it none",
		Args:  cobra.NoArgs,
	}
	flags.add(cmd)
	cmd.Flags().Uint16Var(&weight, "weight", 1, "its share relative to the other backends'")
	require(cmd, "weight")
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
		stored, err := flags.change(ctx, agent, func(b *api.Backend) { b.Weight = &weight })
		if err != nil {
			return err
		}
		return c.say(stored, "service %d: %s has weight %d", stored.ID, flags.backend, weight)
	})
}

func newStateCommand() *cobra.Command {
	var flags backendFlags
	cmd := &cobra.Command{
		Use:   "state active|maintenance|draining --id N --backend ADDRESS:PORT",
		Short: "Set a backend's state; only an active one gets new connections",
		Long: `Set a backend's state. Connections that it has go on in every state; only an active
one gets new ones. One in maintenance stays in the service, one that is draining leaves it with its last connection.`,
		Args:      oneOf("active", "maintenance", "draining"),
		ValidArgs: []string{"active", "maintenance", "draining"},
	}
	flags.add(cmd)
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
		stored, err := flags.change(ctx, agent, func(b *api.Backend) { b.State, b.DrainUntil = c.args[0], nil })
		if err != nil {
			return err
		}
		return c.say(stored, "service %d: %s is %s", stored.ID, flags.backend, c.args[0])
	})
}

func newServiceDescribeCommand() *cobra.Command {
	var id uint32
	cmd := &cobra.Command{Use: "describe --id N", Short: "Show all of a service, a line for each backend", Args: cobra.NoArgs}
	cmd.Flags().Uint32Var(&id, "id", 0, "number of the service")
	require(cmd, "id")
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
		s, err := agent.Service(ctx, id)
		if err != nil {
			return err
		}
		return c.write(s, func(t *table) { describeRows(t, s) })
	})
}

func describeRows(t *table, s api.Service) {
	t.row("service", s.ID)
	t.row("frontend", fmt.Sprintf("%s/%s", s.Frontend, s.Protocol))
	t.row("mode", s.Mode)
	t.row("encap", s.Encap)
	if s.OuterSource != "" {
		t.row("outer source", s.OuterSource)
	}
	t.row("selection", fmt.Sprintf("%s, %d slots", s.Selection, s.TableSize))
	if s.Affinity != 0 {
		t.row("affinity", s.Affinity)
	}
	for _, p := range s.Sources {
		t.row("source", p)
	}
	if s.MSS != 0 {
		t.row("mss", s.MSS)
	}
	if c := s.HealthCheck; c != nil {
		t.row("health check", describeCheck(*c))
	}
	t.row("revision", s.Revision)
	for _, b := range s.Backends {
		state := b.State
		if state == "" {
			state = "active"
		}
		text := fmt.Sprintf("%s, weight %d, %s", b.Address, b.Share(), state)
		if b.DrainUntil != nil {
			text += " until " + b.DrainUntil.Format(time.RFC3339)
		}
		if b.Health != "" {
			text += ", " + b.Health
		}
		t.row("backend", text)
	}
}

// describeCheck says what is not as usual.
func describeCheck(c api.HealthCheck) string {
	text := c.Type
	if c.Via != "" {
		text += " via " + c.Via
	}
	if c.Port != 0 {
		text += fmt.Sprintf(", port %d", c.Port)
	}
	if c.Path != "" {
		text += ", path " + c.Path
	}
	if c.Status != 0 {
		text += fmt.Sprintf(", status %d", c.Status)
	}
	if c.Interval != 0 {
		text += fmt.Sprintf(", every %s", c.Interval)
	}
	if c.Timeout != 0 {
		text += fmt.Sprintf(", timeout %s", c.Timeout)
	}
	if c.Rise != 0 {
		text += fmt.Sprintf(", rise %d", c.Rise)
	}
	if c.Fall != 0 {
		text += fmt.Sprintf(", fall %d", c.Fall)
	}
	return text
}
