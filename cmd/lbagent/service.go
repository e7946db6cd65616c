package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
)

func newServiceCommand() *cobra.Command {
	return group("service", "Set, list and watch virtual services",
		newServiceUpdateCommand(), newServiceDeleteCommand(), newServiceListCommand(), newServiceDescribeCommand(),
		newDrainCommand(), newWeightCommand(), newStateCommand(), newDumpstateCommand())
}

func newServiceUpdateCommand() *cobra.Command {
	var (
		frontend          string
		backends, sources []string
		affinity          time.Duration
		check             checkFlags
		wanted            api.Service
	)
	cmd := &cobra.Command{
		Use:   "update --frontend VIP:PORT --backends ADDRESS:PORT[@WEIGHT],… --id N",
		Short: "Create or replace a service",
		Long: `Create or replace a service. Connections that exist stay with their backends;
the others follow the new Maglev table, of which few slots change. A backend that is not among the
new ones gets no more connections and goes when those that it has have ended.

Port 0 of frontend and backends is all ports that no other service of the VIP has.`,
		Example: `  lbagent service update --frontend=40.1.1.1:80 --backends=20.1.1.10:80,20.1.1.20:80 --id=1
  lbagent service update --frontend=[fd00:40::1]:443 --backends=[fd00::10]:443@3,[fd00::20]:443 --id=2 --mode=snat`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&frontend, "frontend", "", "virtual address and port")
	flags.StringSliceVar(&backends, "backends", nil, "backends' addresses and ports, and weights, 0 to 1000 (default 1)")
	flags.Uint32Var(&wanted.ID, "id", 0, "number of the service, 1 to 2147483648")
	flags.StringVar(&wanted.Protocol, "protocol", "", "tcp or udp (default what the service has, at first tcp)")
	flags.StringVar(&wanted.Mode, "mode", "", "dsr or snat (default what the service has, at first the agent's)")
	flags.StringVar(&wanted.Encap, "encap", "", "how DSR reaches backends: ipip, or l2 by MAC alone (default what the service has, at first ipip)")
	flags.StringVar(&wanted.OuterSource, "outer-source", "", "source of the outer header: an address, or a prefix to spread flows over (default the balancer's own)")
	flags.StringVar(&wanted.Selection, "selection", "", "maglev or random (default what the service has, at first maglev)")
	flags.DurationVar(&affinity, "affinity", 0, "keep a client at one backend until it has been silent for so long (default off)")
	flags.StringSliceVar(&sources, "sources", nil, "prefixes of the clients that are let in (default all)")
	flags.Uint16Var(&wanted.MSS, "mss", 0, "bound of the TCP MSS option (default none)")
	flags.Uint32Var(&wanted.TableSize, "table-size", 0, "Maglev slots (default what the service has, at first 16381)")
	check.add(cmd)
	require(cmd, "frontend", "backends", "id")
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
		var err error
		if wanted.Frontend, err = parseEndpoint("--frontend", frontend); err != nil {
			return err
		}
		wanted.Affinity = api.Duration(affinity)
		if wanted.HealthCheck, err = check.wanted(); err != nil {
			return err
		}
		wanted.Backends, wanted.Sources = nil, nil
		for _, text := range backends {
			b, err := api.ParseBackend(text)
			if err != nil {
				return usageError{fmt.Errorf("--backends: %w", err)}
			}
			wanted.Backends = append(wanted.Backends, b)
		}
		for _, text := range sources {
			p, err := netip.ParsePrefix(strings.TrimSpace(text))
			if err != nil {
				return usageError{fmt.Errorf("--sources: %q is no ADDRESS/BITS: %w", text, err)}
			}
			wanted.Sources = append(wanted.Sources, p)
		}
		if len(wanted.Backends) == 0 {
			return usageError{errors.New("--backends: none given; `service delete` removes a service")}
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
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
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
	}, func(ctx context.Context, agent api.Agent, c *call) error {
		services, err := agent.Services(ctx)
		if err != nil {
			return err
		}
		return c.write(services, func(t *table) {
			t.row("ID", "FRONTEND", "PROTOCOL", "MODE", "SLOTS", "BACKENDS", "OPTIONS")
			for _, s := range services {
				backends := make([]string, len(s.Backends))
				for i, b := range s.Backends {
					backends[i] = b.String()
				}
				t.row(s.ID, s.Frontend, s.Protocol, s.Mode, s.TableSize, dash(strings.Join(backends, ",")), dash(strings.Join(options(s), ",")))
			}
		})
	})
}

// options are what a service has that is not as usual.
func options(s api.Service) []string {
	var list []string
	add := func(has bool, format string, args ...any) {
		if has {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	add(s.Encap != "" && s.Encap != "ipip", "encap=%s", s.Encap)
	add(s.OuterSource != "", "outer-source=%s", s.OuterSource)
	add(s.Selection != "" && s.Selection != "maglev", "selection=%s", s.Selection)
	add(s.Affinity != 0, "affinity=%s", s.Affinity)
	for _, p := range s.Sources {
		add(true, "source=%s", p)
	}
	add(s.MSS != 0, "mss=%d", s.MSS)
	if s.HealthCheck != nil {
		add(true, "check=%s", s.HealthCheck.Type)
	}
	return list
}

// checkFlags say how a service's backends are checked.
type checkFlags struct {
	check    api.HealthCheck
	interval time.Duration
	timeout  time.Duration
}

func (f *checkFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.check.Type, "check", "", "check the backends' health by tcp or http (default not)")
	flags.StringVar(&f.check.Via, "check-via", "", "direct, or vip through the VIP's own path (default direct)")
	flags.Uint16Var(&f.check.Port, "check-port", 0, "port to check (default the service's)")
	flags.StringVar(&f.check.Path, "check-path", "", "path of an http check (default /)")
	flags.IntVar(&f.check.Status, "check-status", 0, "status that an http check wants (default any of 200 to 399)")
	flags.DurationVar(&f.interval, "check-interval", 0, "time between two checks of a backend (default 5s)")
	flags.DurationVar(&f.timeout, "check-timeout", 0, "time that one check may take (default 1s)")
	flags.IntVar(&f.check.Rise, "check-rise", 0, "good results in a row that bring a backend back (default 2)")
	flags.IntVar(&f.check.Fall, "check-fall", 0, "bad results in a row that quarantine it (default 3)")
}

// wanted is nil when no check is asked for.
func (f *checkFlags) wanted() (*api.HealthCheck, error) {
	c := f.check
	c.Interval, c.Timeout = api.Duration(f.interval), api.Duration(f.timeout)
	if c.Type != "" {
		return &c, nil
	}
	if c != (api.HealthCheck{}) {
		return nil, usageError{errors.New("--check is missing: tcp or http")}
	}
	return nil, nil
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
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
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
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
