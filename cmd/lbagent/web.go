package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"l4lab/agent/web"
)

// newWebCommand is `lbagent web`: the demo's page on a backend.
func newWebCommand() *cobra.Command {
	var (
		options web.Options
		address string
	)
	cmd := &cobra.Command{
		Use:   "web --name NAME --address ADDRESS --tcp :PORT",
		Short: "Serve the demo's web page on a backend",
		Long: `Serve the demo's web page on a backend, in the foreground, until SIGTERM or SIGINT.

The page names the backend and its address and refreshes itself. Further:
  GET  /whoami             {"name","address","os","client"}
  GET  /bytes?n=N&seed=S   N bytes that follow from the seed
  POST /sink               {"bytes","sha256"} of the body
Every answer has the header X-Backend. A datagram to a --udp port is answered with
what /whoami says, from the address that it was sent to. The log goes to standard output,
one line a request.`,
		Example: "  lbagent web --name be1 --address 20.1.1.10 --os windows --tcp :80,:8080 --udp :53",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			web.Frugal()
			var err error
			if address != "" {
				if options.Address, err = netip.ParseAddr(address); err != nil {
					return &web.OptionError{Option: "address", Message: fmt.Sprintf("%q is no address", address)}
				}
			}
			options.Log = slog.New(slog.NewTextHandler(cmd.OutOrStdout(), nil))
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			server, err := web.Listen(ctx, options)
			if err != nil {
				return err
			}
			return server.Run(ctx)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Name, "name", "", "name of this backend")
	flags.StringVar(&address, "address", "", "address of this backend, as the page shows it")
	flags.StringVar(&options.OS, "os", "", "operating system, as the page shows it")
	flags.StringSliceVar(&options.TCP, "tcp", nil, "addresses to serve HTTP on, [ADDRESS]:PORT; without an address, all of both families")
	flags.StringSliceVar(&options.UDP, "udp", nil, "addresses to answer datagrams on, as --tcp")
	return cmd
}
