package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// requestTimeout bounds one request to the agent.
const requestTimeout = 30 * time.Second

// clientFlags are those of every command that speaks to the agent.
type clientFlags struct {
	socket string
	output outputFlag
}

func (f *clientFlags) add(cmd *cobra.Command) {
	addSocket(cmd, &f.socket)
	f.output.add(cmd)
}

// socketVariable names the socket where --socket does not, as in a lab's node, where the agent has one of its own.
const socketVariable = "LBAGENT_SOCKET"

func addSocket(cmd *cobra.Command, socket *string) {
	path := os.Getenv(socketVariable)
	if path == "" {
		path = clientSocket()
	}
	cmd.Flags().StringVar(socket, "socket", path, "the agent's socket, also by $"+socketVariable)
}

// oneOf takes one argument, which is one of these.
func oneOf(values ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		wanted := "wanted is " + strings.Join(values, ", ")
		switch {
		case len(args) == 0:
			return errors.New("an argument is missing: " + wanted)
		case len(args) > 1:
			return fmt.Errorf("%d arguments, %s", len(args), wanted)
		case !slices.Contains(values, args[0]):
			return fmt.Errorf("%q: %s", args[0], wanted)
		}
		return nil
	}
}

// clientCommand adds the flags, and the agent as an argument of what the command does.
func clientCommand(cmd *cobra.Command, do func(ctx context.Context, agent api.Agent, c *call) error) *cobra.Command {
	flags := &clientFlags{}
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
		defer cancel()
		return do(ctx, api.NewUnixClient(flags.socket), &call{cmd: cmd, args: args, output: &flags.output})
	}
	return cmd
}

// call is one run of a client command.
type call struct {
	cmd    *cobra.Command
	args   []string
	output *outputFlag
}

func (c *call) write(v any, text func(*table)) error { return c.output.write(c.cmd, v, text) }

// say prints what was done; in JSON, v.
func (c *call) say(v any, format string, args ...any) error {
	return c.write(v, func(t *table) { t.row(fmt.Sprintf(format, args...)) })
}

func newClientCommands() []*cobra.Command {
	return []*cobra.Command{
		newServiceCommand(), newModeCommand(), newNeighbourCommand(),
		newCountersCommand(), newStatusCommand(), newDiffCommand(), newUnloadCommand(),
		newMonitorCommand(), newTraceCommand(), newHealthCommand(), newCapabilitiesCommand(),
	}
}

// group is a command that only has subcommands; without one it is wrong usage.
func group(use, short string, subcommands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q for %q", args[0], strings.TrimSpace(cmd.CommandPath()))}
			}
			return usageError{fmt.Errorf("%q needs a subcommand: see --help", strings.TrimSpace(cmd.CommandPath()))}
		},
		Args: cobra.ArbitraryArgs,
	}
	cmd.AddCommand(subcommands...)
	return cmd
}

func newModeCommand() *cobra.Command {
	var id uint32
	update := &cobra.Command{
		Use:       "update dsr|snat",
		Short:     "Switch the mode of every service, or of one",
		Long:      "Switch the mode of every service and the default, or with --id of one. Established connections go on in the mode in which they began.",
		Args:      oneOf("dsr", "snat"),
		ValidArgs: []string{"dsr", "snat"},
	}
	update.Flags().Uint32Var(&id, "id", 0, "only this service")
	return group("mode", "Switch between DSR and SNAT", clientCommand(update,
		func(ctx context.Context, agent api.Agent, c *call) error {
			wanted := api.ModeUpdate{Mode: c.args[0], ServiceID: id}
			if err := agent.SetMode(ctx, wanted); err != nil {
				return err
			}
			return c.say(wanted, "mode is %s", wanted.Mode)
		}))
}

func newNeighbourCommand() *cobra.Command {
	update := clientCommand(&cobra.Command{
		Use:   "update ADDRESS",
		Short: "Ask for the MAC of a backend's next hop anew",
		Args:  cobra.ExactArgs(1),
	}, func(ctx context.Context, agent api.Agent, c *call) error {
		address, err := netip.ParseAddr(c.args[0])
		if err != nil {
			return usageError{fmt.Errorf("%q is no address", c.args[0])}
		}
		n, err := agent.RefreshNeighbour(ctx, address)
		if err != nil {
			return err
		}
		if err := c.write(n, func(t *table) { neighbourRows(t, []api.Neighbour{n}) }); err != nil {
			return err
		}
		if n.MAC == "" {
			return fmt.Errorf("%s does not answer", n.NextHop)
		}
		return nil
	})
	list := clientCommand(&cobra.Command{
		Use:   "list",
		Short: "List the backends' next hops",
		Args:  cobra.NoArgs,
	}, func(ctx context.Context, agent api.Agent, c *call) error {
		all, err := agent.Neighbours(ctx)
		if err != nil {
			return err
		}
		return c.write(all, func(t *table) { neighbourRows(t, all) })
	})
	cmd := group("neighbor", "See and refresh the backends' next hops", update, list)
	cmd.Aliases = []string{"neighbour"}
	return cmd
}

func neighbourRows(t *table, all []api.Neighbour) {
	t.row("BACKEND", "NEXT HOP", "MAC")
	for _, n := range all {
		hop, mac := "-", "-"
		if n.NextHop.IsValid() {
			hop = n.NextHop.String()
		}
		if n.MAC != "" {
			mac = n.MAC
		}
		t.row(n.Address, hop, mac)
	}
}

func newStatusCommand() *cobra.Command {
	return clientCommand(&cobra.Command{
		Use:   "status",
		Short: "Say what the agent is attached to and how it started",
		Args:  cobra.NoArgs,
	}, func(ctx context.Context, agent api.Agent, c *call) error {
		s, err := agent.Status(ctx)
		if err != nil {
			return err
		}
		return c.write(s, func(t *table) {
			i := s.Interface
			t.row("agent", fmt.Sprintf("pid %d, version %s, since %s", s.PID, s.Version, s.StartedAt.Format(time.RFC3339)))
			t.row("interface", fmt.Sprintf("%s, MTU %d, index %d, address %s, MAC %s", i.Name, i.MTU, i.Index, addresses(i), i.MAC))
			t.row("data path", fmt.Sprintf("%s, %s XDP, program %d", s.Platform, s.AttachMode, s.ProgramID))
			t.row("VLAN tags", s.VLAN)
			t.row("took over", s.TookOver)
			for _, w := range s.Warnings {
				t.row("warning", w)
			}
		})
	})
}

// addresses are the balancer's own.
func addresses(i api.Interface) string {
	var own []string
	for _, a := range []netip.Addr{i.Address, i.Address6} {
		if a.IsValid() {
			own = append(own, a.String())
		}
	}
	return strings.Join(own, " and ")
}

func newUnloadCommand() *cobra.Command {
	var pinDir string
	cmd := &cobra.Command{
		Use:   "unload",
		Short: "Detach the data path, remove its pins, and end the agent",
		Long: `Detach the data path, remove its maps and pins, and end the agent. Connections
through the VIPs end. Without a running agent, the pins of --pin-dir are removed.
The state file stays: the next agent has the same services.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&pinDir, "pin-dir", defaultPinDir, "where the pins are, when no agent runs")
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
		err := agent.Unload(ctx)
		if notRunning(err) {
			err = datapath.Unload(pinDir)
			if errors.Is(err, datapath.ErrInUse) {
				err = fmt.Errorf("%w; name its --socket", err)
			}
		}
		if err != nil {
			return err
		}
		return c.say(struct {
			Unloaded bool `json:"unloaded"`
		}{true}, "unloaded")
	})
}

func newCountersCommand() *cobra.Command {
	return clientCommand(&cobra.Command{
		Use:   "counters",
		Short: "Show packets and bytes of services and backends, and drops",
		Args:  cobra.NoArgs,
	}, func(ctx context.Context, agent api.Agent, c *call) error {
		counters, err := agent.Counters(ctx)
		if err != nil {
			return err
		}
		return c.write(counters, func(t *table) { counterRows(t, counters) })
	})
}
