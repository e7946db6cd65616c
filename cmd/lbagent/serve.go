package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"l4lab/agent/datapath"
	"l4lab/agent/server"
)

func newServeCommand() *cobra.Command {
	var (
		options   server.Options
		addresses []string
		profile   string
		verbose   bool
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
			for _, text := range addresses {
				a, err := netip.ParseAddr(text)
				if err != nil || a.Is4In6() || a.Zone() != "" {
					return usageError{fmt.Errorf("--address: %q is neither an IPv4 nor an IPv6 address", text)}
				}
				options.Addresses = append(options.Addresses, a)
			}
			if options.Mode != "" {
				if _, err := datapath.ParseMode(options.Mode); err != nil {
					return usageError{fmt.Errorf("--mode: %w", err)}
				}
			}
			if options.StateFile == "" {
				file, err := defaultStateFile(options.Socket)
				if err != nil {
					return err
				}
				options.StateFile = file
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
	flags.StringVar(&options.Socket, "socket", defaultSocket(), "socket of the API, on Windows a named pipe")
	flags.StringVar(&options.StateFile, "state", "", "file that keeps the services (default beside the socket; what is under /run is lost at a reboot)")
	flags.StringVar(&options.PinDir, "pin-dir", defaultPinDir, "where maps and program are pinned")
	flags.StringSliceVar(&addresses, "address", nil, "the balancer's own address, once for each family (default the interface's first)")
	flags.Uint32Var(&options.Sizes.Connections, "max-connections", 0, "room for established IPv4 connections (Linux; default what the maps have, at first 131072)")
	flags.Uint32Var(&options.Sizes.Services, "max-services", 0, "room for services (Linux; default what the maps have, at first 4096)")
	flags.Uint32Var(&options.Sizes.Backends, "max-backends", 0, "room for backends of all services together (Linux; default what the maps have, at first 16384)")
	flags.Uint32Var(&options.Sizes.Sources, "max-sources", 0, "room for source ranges of all services together (Linux; default what the maps have, at first 4096)")
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
