package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"l4lab/lab/guest/relay"
)

// newRelayCommand is `lbagent relay`: a connection over the standard streams.
func newRelayCommand() *cobra.Command {
	var (
		local       string
		timeout     time.Duration
		untilClosed bool
	)
	cmd := &cobra.Command{
		Use:   "relay tcp|udp|unix|agent [ADDRESS]",
		Short: "Connect the standard streams with an address, for labctl",
		Long: `Connect from this machine and copy between the connection and the standard streams.

First comes one line of JSON: {"relay":1,"local":…,"remote":…} when the connection
stands, else with "kind" and "message" why it does not. The end of the input shuts the
connection for writing (with --until-closed it does not); the command ends when the peer has ended its side. For udp each
datagram, both ways, is preceded by its length in two bytes, network byte order.
"agent" is the agent's own socket, on Windows its named pipe.`,
		Example: "  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | lbagent relay tcp 40.1.1.1:80 --local 20.1.1.100:4000",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 || len(args) == 1 && args[0] != relay.Agent {
				return errors.New("a network and an address are needed: lbagent relay tcp|udp|unix|agent [ADDRESS]")
			}
			switch args[0] {
			case relay.TCP, relay.UDP, relay.Unix, relay.Agent:
				return nil
			}
			return fmt.Errorf("network %q is not one of tcp, udp, unix, agent", args[0])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			target := relay.Target{Network: args[0], Local: local, UntilClosed: untilClosed}
			if len(args) > 1 {
				target.Address = args[1]
			}
			dial := func(ctx context.Context) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, timeout)
				defer cancel()
				if target.Network == relay.Agent {
					return dialAgent(ctx, target)
				}
				return target.Connect(ctx)
			}
			return relay.Serve(cmd.Context(), target, dial, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&local, "local", "", "ADDRESS:PORT to connect from; port 0 is any")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long connecting may take")
	cmd.Flags().BoolVar(&untilClosed, "until-closed", false, "leave the connection open for writing after the end of the input")
	return cmd
}

// dialAgent connects to the agent's socket, the address or the usual one.
func dialAgent(ctx context.Context, t relay.Target) (net.Conn, error) {
	if t.Local != "" {
		return nil, fmt.Errorf("the agent is dialled from no address, not from %s", t.Local)
	}
	path := t.Address
	if path == "" {
		path = clientSocket()
	}
	return dialSocket(ctx, path)
}
