package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"l4lab/agent/datapath"
	"l4lab/agent/server"
)

func newServeCommand() *cobra.Command {
	var (
		options server.Options
		address string
		profile string
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "serve --device INTERFACE",
		Short: "Run the balancer's agent",
		Long: `Run the balancer's agent in the foreground: load the data path, attach it to the interface,
and serve the API on the socket. The steps of the start go to standard output, the log to standard
error. SIGTERM and SIGINT end the agent and leave the data path forwarding; the next
agent with the same --pin-dir takes over.`,
		Example: "  lbagent serve --device eth0 --mode dsr",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if address != "" {
				a, err := netip.ParseAddr(address)
				if err != nil || !a.Is4() {
					return usageError{fmt.Errorf("--address: %q is no IPv4 address", address)}
				}
				options.Address = a
			}
			if options.Mode != "" {
				if _, err := datapath.ParseMode(options.Mode); err != nil {
					return usageError{fmt.Errorf("--mode: %w", err)}
				}
			}
			if options.StateFile == "" {
				options.StateFile = strings.TrimSuffix(options.Socket, ".sock") + ".state.json"
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			options.Profile = datapath.Profile(profile)
			options.Version = version()
			options.Out = cmd.OutOrStdout()
			options.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return server.Run(ctx, options)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&options.Interface, "device", "d", "", "network interface of the VIPs' packets, also --interface")
	flags.StringVar(&options.Mode, "mode", "", "mode of services that name none, dsr or snat, also --bpf-lb-mode (default the last one, at first dsr)")
	flags.StringVar(&options.Socket, "socket", defaultSocket(), "socket of the API")
	flags.StringVar(&options.StateFile, "state", "", "file that keeps the services (default beside the socket; what is under /run is lost at a reboot)")
	flags.StringVar(&options.PinDir, "pin-dir", defaultPinDir, "where maps and program are pinned")
	flags.StringVar(&address, "address", "", "the balancer's own address (default the interface's first)")
	flags.BoolVar(&options.Generic, "generic", false, "permit XDP's generic mode, which is slow (Linux)")
	flags.StringVar(&options.Image, "image", "", "native image of the data path, a .sys file (Windows)")
	flags.StringVar(&profile, "profile", defaultProfile, "who provides the XDP hook: efw-0.21 or xdp (Windows)")
	flags.BoolVar(&verbose, "verbose", false, "log more")
	flags.SetNormalizeFunc(demoNames)
	require(cmd, "device")
	return cmd
}

// demoNames makes the demo's names of flags work beside ours.
func demoNames(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "interface":
		name = "device"
	case "bpf-lb-mode":
		name = "mode"
	}
	return pflag.NormalizedName(name)
}
