package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"l4lab/agent/config"
	"l4lab/agent/datapath"
	"l4lab/agent/server"
)

func newServeCommand() *cobra.Command {
	var flags serveFlags
	cmd := &cobra.Command{
		Use:   "serve --device INTERFACE | --config FILE",
		Short: "Run the balancer's agent",
		Long: `Run the balancer's agent in the foreground: load the data path, attach it to the interface,
and serve the API on the socket. The steps of the start go to standard output, the log to standard
error. SIGTERM and SIGINT end the agent and leave the data path forwarding; the next
agent with the same --pin-dir takes over.

With --config, the file says all that, and the services; flags override it. It is read anew at
SIGHUP and when it changes: one with a fault changes nothing.`,
		Example: "  lbagent serve --device eth0 --mode dsr\n  lbagent serve --config /etc/lbagent/config.yaml",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return flags.serve(cmd) },
	}
	flags.add(cmd.Flags())
	return cmd
}

// serveFlags are what the command line says.
type serveFlags struct {
	config    string
	set       config.Config
	addresses []string
	metrics   string
	public    bool
	verbose   bool
}

func (f *serveFlags) add(flags *pflag.FlagSet) {
	c := &f.set
	flags.StringVar(&f.config, "config", "", "config file, see `lbagent config example`; \"-\" is standard input, read once")
	flags.StringVarP(&c.Interface, "device", "d", "", "network interface of the VIPs' packets, also --interface")
	flags.StringVar(&c.Mode, "mode", "", "mode of services that name none, dsr or snat, also --bpf-lb-mode (default the last one, at first dsr)")
	flags.StringVar(&c.Socket.Path, "socket", defaultSocket(), "socket of the API, on Windows a named pipe")
	flags.StringVar(&c.Socket.Group, "socket-group", "", "group whose members may use the socket as well (default nobody; Linux)")
	flags.StringVar(&c.StateFile, "state", "", "file that keeps the services (default beside the socket; what is under /run is lost at a reboot)")
	flags.StringVar(&c.PinDir, "pin-dir", defaultPinDir, "where maps and program are pinned")
	flags.StringSliceVar(&f.addresses, "address", nil, "the balancer's own address, once for each family (default the interface's first)")
	flags.Uint32Var(&c.Sizes.Connections, "max-connections", 0, "room for established IPv4 connections (Linux; default what the maps have, at first 131072)")
	flags.Uint32Var(&c.Sizes.Services, "max-services", 0, "room for services (Linux; default what the maps have, at first 4096)")
	flags.Uint32Var(&c.Sizes.Backends, "max-backends", 0, "room for backends of all services together (Linux; default what the maps have, at first 16384)")
	flags.Uint32Var(&c.Sizes.Sources, "max-sources", 0, "room for source ranges of all services together (Linux; default what the maps have, at first 4096)")
	flags.BoolVar(&c.Generic, "generic", false, "permit XDP's generic mode, which is slow (Linux)")
	flags.StringVar(&c.VLAN, "vlan", config.Default().VLAN, "frames with a VLAN tag: pass leaves them to the stack, drop counts them as drops")
	flags.StringVar(&c.Image, "image", "", "native image of the data path, a .sys file (Windows)")
	flags.StringVar(&c.Profile, "profile", defaultProfile, "who provides the XDP hook: efw-0.21 or xdp (Windows)")
	flags.StringVar(&f.metrics, "metrics", "", "address and port for Prometheus to scrape, of this machine alone, such as 127.0.0.1:9100 (default none)")
	flags.BoolVar(&f.public, "metrics-public", false, "permit --metrics on an address that others reach; there is no password")
	flags.StringVar(&c.Log.Level, "log-level", "info", "what is logged at least: debug, info, warn or error")
	flags.StringVar(&c.Log.Format, "log-format", config.FormatAuto, "text, json, or auto: text on a terminal and JSON elsewhere")
	flags.BoolVar(&f.verbose, "verbose", false, "log more, as --log-level debug")
	flags.SetNormalizeFunc(demoNames)
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

// override has the flags that were given say it instead of the file.
func (f *serveFlags) override(flags *pflag.FlagSet) (func(*config.Config), error) {
	var addresses []netip.Addr
	for _, text := range f.addresses {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Is4In6() || a.Zone() != "" {
			return nil, usageError{fmt.Errorf("--address: %q is neither an IPv4 nor an IPv6 address", text)}
		}
		addresses = append(addresses, a)
	}
	set := f.set
	if f.verbose {
		set.Log.Level = "debug"
	}
	return func(c *config.Config) {
		for name, take := range map[string]func(){
			"device":          func() { c.Interface = set.Interface },
			"mode":            func() { c.Mode = set.Mode },
			"vlan":            func() { c.VLAN = set.VLAN },
			"socket":          func() { c.Socket.Path = set.Socket.Path },
			"socket-group":    func() { c.Socket.Group = set.Socket.Group },
			"state":           func() { c.StateFile = set.StateFile },
			"pin-dir":         func() { c.PinDir = set.PinDir },
			"address":         func() { c.Addresses = addresses },
			"max-connections": func() { c.Sizes.Connections = set.Sizes.Connections },
			"max-services":    func() { c.Sizes.Services = set.Sizes.Services },
			"max-backends":    func() { c.Sizes.Backends = set.Sizes.Backends },
			"max-sources":     func() { c.Sizes.Sources = set.Sizes.Sources },
			"generic":         func() { c.Generic = set.Generic },
			"image":           func() { c.Image = set.Image },
			"profile":         func() { c.Profile = set.Profile },
			"metrics-public":  func() { c.Metrics.Public = f.public },
			"log-level":       func() { c.Log.Level = set.Log.Level },
			"log-format":      func() { c.Log.Format = set.Log.Format },
			"verbose":         func() { c.Log.Level = set.Log.Level },
		} {
			if flags.Changed(name) {
				take()
			}
		}
		fillPlaces(c)
	}, nil
}

// fillPlaces says where things are of which nothing was said.
func fillPlaces(c *config.Config) {
	if c.Socket.Path == "" {
		c.Socket.Path = defaultSocket()
	}
	if c.PinDir == "" {
		c.PinDir = defaultPinDir
	}
	if c.Profile == "" {
		c.Profile = defaultProfile
	}
}

func (f *serveFlags) serve(cmd *cobra.Command) error {
	override, err := f.override(cmd.Flags())
	if err != nil {
		return err
	}
	if f.config == "" {
		return f.serveFlagsOnly(cmd, override)
	}
	// Before the file is read: no change of it shall be missed.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, hangupSignals()...)
	defer signal.Stop(hangups)
	watcher := config.NewWatcher(f.config)
	file, err := config.Load(f.config, override)
	if err != nil {
		return err
	}
	log := newLogging(cmd.ErrOrStderr(), file.Log)
	watcher.Log = log.Logger
	options, err := f.options(cmd, file.Config)
	if err != nil {
		return err
	}
	options.Log = log.Logger
	if f.config != "-" {
		follower := &follower{path: f.config, override: override, watcher: watcher, hangups: hangups, log: log, started: file.Config}
		options.Follow = follower.run
	}
	return file.Explain(runAgent(cmd.Context(), options))
}

// errNoDevice: neither a flag nor a file names the interface.
var errNoDevice = errors.New(`required flag(s) "device" not set, nor --config`)

// serveFlagsOnly is the agent without a file.
func (f *serveFlags) serveFlagsOnly(cmd *cobra.Command, override func(*config.Config)) error {
	c := config.Default()
	override(&c)
	if c.Interface == "" {
		return usageError{errNoDevice}
	}
	if c.Metrics.Public && f.metrics == "" {
		return usageError{errors.New("--metrics-public is for --metrics, which is missing")}
	}
	judged := c
	judged.Metrics = config.Metrics{} // the server judges the flag
	for _, fault := range config.Validate(judged) {
		return usageError{fmt.Errorf("--%s: %s", flagOf(fault.Path), fault.Message)}
	}
	options, err := f.options(cmd, c)
	if err != nil {
		return err
	}
	options.Log = newLogging(cmd.ErrOrStderr(), c.Log).Logger
	return runAgent(cmd.Context(), options)
}

// flagOf names the flag of a config's path.
func flagOf(path string) string {
	path, _, _ = strings.Cut(path, "[")
	for of, flag := range map[string]string{
		"addresses": "address", "socket.group": "socket-group", "log.level": "log-level", "log.format": "log-format",
		"sizes.connections": "max-connections", "sizes.services": "max-services", "sizes.backends": "max-backends", "sizes.sources": "max-sources",
	} {
		if path == of {
			return flag
		}
	}
	return path
}

func (f *serveFlags) options(cmd *cobra.Command, c config.Config) (server.Options, error) {
	options := server.Options{
		Interface:     c.Interface,
		Addresses:     c.Addresses,
		Wish:          wishOf(c),
		Socket:        c.Socket.Path,
		SocketGroup:   c.Socket.Group,
		StateFile:     c.StateFile,
		PinDir:        c.PinDir,
		Sizes:         c.Room(),
		Generic:       c.Generic,
		Image:         c.Image,
		Profile:       datapath.Profile(c.Profile),
		Metrics:       f.metrics,
		MetricsPublic: c.Metrics.Public,
		Version:       version(),
		Out:           cmd.OutOrStdout(),
	}
	if options.Metrics == "" && c.Metrics.Listen.IsValid() {
		options.Metrics = c.Metrics.Listen.String()
	}
	if options.StateFile == "" {
		file, err := defaultStateFile(options.Socket)
		if err != nil {
			return options, err
		}
		options.StateFile = file
	}
	return options, nil
}

// runAgent runs the agent until it is told to end.
func runAgent(ctx context.Context, options server.Options) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return server.Run(ctx, options)
}
