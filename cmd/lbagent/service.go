package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
)

func newServiceCommand() *cobra.Command {
	return group("service", "Set, list and watch virtual services",
		newServiceUpdateCommand(), newServiceDeleteCommand(), newServiceListCommand(), newDumpstateCommand())
}

func newServiceUpdateCommand() *cobra.Command {
	var (
		frontend string
		backends []string
		wanted   api.Service
	)
	cmd := &cobra.Command{
		Use:   "update --frontend VIP:PORT --backends ADDRESS:PORT,… --id N",
		Short: "Create or replace a service",
		Long: `Create or replace a service. Connections that exist stay with their backends;
the others follow the new Maglev table, of which few slots change.`,
		Example: "  lbagent service update --frontend=40.1.1.1:80 --backends=20.1.1.10:80,20.1.1.20:80 --id=1",
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&frontend, "frontend", "", "virtual address and port")
	flags.StringSliceVar(&backends, "backends", nil, "backends' addresses and ports")
	flags.Uint32Var(&wanted.ID, "id", 0, "number of the service, 1 to 2147483648")
	flags.StringVar(&wanted.Protocol, "protocol", "", "tcp or udp (default what the service has, at first tcp)")
	flags.StringVar(&wanted.Mode, "mode", "", "dsr or snat (default what the service has, at first the agent's)")
	flags.Uint32Var(&wanted.TableSize, "table-size", 0, "Maglev slots (default what the service has, at first 16381)")
	require(cmd, "frontend", "backends", "id")
	return clientCommand(cmd, func(ctx context.Context, agent api.Backend, c *call) error {
		var err error
		if wanted.Frontend, err = parseEndpoint("--frontend", frontend); err != nil {
			return err
		}
		wanted.Backends = nil
		for _, text := range backends {
			b, err := parseEndpoint("--backends", text)
			if err != nil {
				return err
			}
			wanted.Backends = append(wanted.Backends, b)
		}
		if wanted.ID == 0 {
			return usageError{fmt.Errorf("--id: is 0; wanted is 1 to %d", api.MaxServiceID)}
		}
		stored, err := agent.PutService(ctx, wanted)
		if err != nil {
			return err
		}
		return c.say(stored, "service %d: %s/%s, %s, %d backends, %d slots", stored.ID, stored.Frontend, stored.Protocol,
			stored.Mode, len(stored.Backends), stored.TableSize)
	})
}

func parseEndpoint(flag, text string) (netip.AddrPort, error) {
	e, err := netip.ParseAddrPort(strings.TrimSpace(text))
	if err != nil {
		return e, usageError{fmt.Errorf("%s: %q is no ADDRESS:PORT: %w", flag, text, err)}
	}
	return e, nil
}

func newServiceDeleteCommand() *cobra.Command {
	var id uint32
	cmd := &cobra.Command{Use: "delete --id N", Short: "Remove a service", Args: cobra.NoArgs}
	cmd.Flags().Uint32Var(&id, "id", 0, "number of the service")
	require(cmd, "id")
	return clientCommand(cmd, func(ctx context.Context, agent api.Backend, c *call) error {
		if err := agent.DeleteService(ctx, id); err != nil {
			return err
		}
		return c.say(struct {
			Deleted uint32 `json:"deleted"`
		}{id}, "service %d deleted", id)
	})
}

func newServiceListCommand() *cobra.Command {
	return clientCommand(&cobra.Command{
		Use:   "list",
		Short: "List the services",
		Args:  cobra.NoArgs,
	}, func(ctx context.Context, agent api.Backend, c *call) error {
		services, err := agent.Services(ctx)
		if err != nil {
			return err
		}
		return c.write(services, func(t *table) {
			t.row("ID", "FRONTEND", "PROTOCOL", "MODE", "SLOTS", "BACKENDS")
			for _, s := range services {
				backends := make([]string, len(s.Backends))
				for i, b := range s.Backends {
					backends[i] = b.String()
				}
				t.row(s.ID, s.Frontend, s.Protocol, s.Mode, s.TableSize, strings.Join(backends, ","))
			}
		})
	})
}

func newDumpstateCommand() *cobra.Command {
	var id uint32
	cmd := &cobra.Command{
		Use:   "dumpstate [--id N]",
		Short: "List the connections of a service, or of all",
		Long: `List the connections of a service, or of all. Rx is what the client sent, Tx what the
backend answered, in bytes of IP; in DSR replies never pass the balancer, so Tx is "-".`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().Uint32Var(&id, "id", 0, "number of the service")
	return clientCommand(cmd, func(ctx context.Context, agent api.Backend, c *call) error {
		connections, err := agent.Connections(ctx, id)
		if err != nil {
			return err
		}
		return c.write(connections, func(t *table) {
			for _, row := range api.Dumpstate(connections) {
				t.row(strings.Join(row, "\t"))
			}
		})
	})
}

// counterRows prints the drops that happened; JSON has all.
func counterRows(t *table, counters api.Counters) {
	t.row("SERVICE", "BACKEND", "CONNECTIONS", "RX PACKETS", "RX BYTES", "TX PACKETS", "TX BYTES")
	line := func(id, backend any, n api.Traffic) {
		t.row(id, backend, n.Connections, n.RxPackets, n.RxBytes, n.TxPackets, n.TxBytes)
	}
	for _, s := range counters.Services {
		line(s.ID, "all", s.Traffic)
		for _, b := range s.Backends {
			line(s.ID, b.Address, b.Traffic)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(counters.Drops)) {
		if n := counters.Drops[reason]; n > 0 {
			t.row("dropped", reason, n)
		}
	}
}

// require marks flags that have no default. An unknown name would be a fault of
// this file, which the tests of the commands show.
func require(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
}
