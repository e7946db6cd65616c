package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/state"
	"l4lab/topology"
)

// hvsimFlags are what `labctl hvsim` takes.
type hvsimFlags struct {
	dir, guests, output           string
	guestsName, linuxImage        string
	ephemeral, verbose            bool
	port                          uint16
	faults, switches, machines    []string
	latency, bootTime             time.Duration
	memoryMB, diskMB              int64
	withoutHyperV, withoutPktmon  bool
	withoutSSHServer, notElevated bool
}

func (a *app) hvsimCommand() *cobra.Command {
	var f hvsimFlags
	cmd := &cobra.Command{
		Use:   "hvsim",
		Short: "Run a SIMULATED Hyper-V host on loopback, for labs of the hyperv provider without Windows",
		Long: `Run a simulated Hyper-V host in the foreground until it is interrupted, and print
what a topology needs to reach it. It speaks WinRM and SSH on loopback, answers
to exactly the scripts that a real host would run, and keeps its switches,
machines and disks in --dir, where the next run finds them; machines come back
off, as after a restart. It is no Hyper-V host, and says so wherever it is asked.

Faults on demand (--fault, repeatable):
` + hvsim.FaultsHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.hvsim(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.dir, "dir", "", "folder of the host's state (default: beside labctl's own state)")
	flags.BoolVar(&f.ephemeral, "ephemeral", false, "use a new folder, and remove it at the end")
	flags.Var(choose(&f.guests, "none", "netns", "qemu"), "guests",
		"none (machines boot and carry no packets; needs no root), netns (network namespaces, Linux and root) or qemu (netns, and Linux in virtual machines)")
	flags.StringVar(&f.guestsName, "guests-name", "hvsim", "what the guests' namespaces are named after: 1 to 8 letters, digits or dashes")
	flags.StringVar(&f.linuxImage, "linux-image", "", "the VHDX that Linux machines start from with --guests qemu (default: of the image debian, which is built when it is missing)")
	flags.Uint16Var(&f.port, "port", 0, "WinRM's port on loopback (default: the one it had, or any)")
	flags.StringArrayVar(&f.faults, "fault", nil, "what goes wrong; see above")
	flags.DurationVar(&f.latency, "latency", 0, "time that is added to each of WinRM's answers")
	flags.DurationVar(&f.bootTime, "boot-time", 2*time.Second, "how long machines boot")
	flags.Int64Var(&f.memoryMB, "memory", 16384, "the host's memory, MB")
	flags.Int64Var(&f.diskMB, "disk", 65536, "the host's disk, MB")
	flags.StringArrayVar(&f.switches, "foreign-switch", nil, "place a switch of this name that no lab made (repeatable)")
	flags.StringArrayVar(&f.machines, "foreign-machine", nil, "place a machine of this name that no lab made (repeatable)")
	flags.BoolVar(&f.withoutHyperV, "without-hyperv", false, "a host on which the Hyper-V feature is not enabled")
	flags.BoolVar(&f.withoutSSHServer, "without-sshd", false, "a host on which OpenSSH's server is not installed")
	flags.BoolVar(&f.withoutPktmon, "without-pktmon", false, "a host without pktmon")
	flags.BoolVar(&f.notElevated, "not-elevated", false, "a host whose user is no administrator")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log each verb on standard error")
	outputFlag(flags, &f.output)
	return cmd
}

// hvsim runs a host until ctx ends, which is how it is meant to end.
func (a *app) hvsim(ctx context.Context, f hvsimFlags) (err error) {
	o, err := a.hvsimOptions(f)
	if err != nil {
		return err
	}
	if o.Dir, err = f.folder(); err != nil {
		return err
	}
	if f.ephemeral {
		defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	}
	if f.guests != "none" {
		if err := a.hvsimGuests(ctx, &o, f); err != nil {
			return err
		}
	}
	h, err := hvsim.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close(context.WithoutCancel(ctx))) }()
	if err := placeForeign(ctx, h, f); err != nil {
		return err
	}
	if f.output == "json" {
		err = writeJSON(a.stdout, h.Endpoint())
	} else {
		err = printEndpoint(a.stdout, h.Endpoint(), o.Dir, f)
	}
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (a *app) hvsimOptions(f hvsimFlags) (hvsim.Options, error) {
	o := hvsim.Options{Latency: f.latency, BootTime: f.bootTime, MemoryMB: f.memoryMB, DiskMB: f.diskMB, Profile: f.profile()}
	if f.memoryMB <= 0 || f.diskMB <= 0 {
		return o, usageError{errors.New("--memory and --disk take a number of MB above 0")}
	}
	for _, text := range f.faults {
		fault, err := hvsim.ParseFault(text)
		if err != nil {
			return o, usageError{err}
		}
		o.Faults = append(o.Faults, fault)
	}
	if f.linuxImage != "" && f.guests != "qemu" {
		return o, usageError{errors.New("--linux-image is for --guests qemu")}
	}
	if f.port != 0 {
		o.ListenWinRM = "127.0.0.1:" + strconv.Itoa(int(f.port))
	}
	programs, err := a.agents()
	if err != nil {
		return o, err
	}
	o.Program = programs[topology.Linux]
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelInfo
	}
	o.Log = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	return o, nil
}

func (f hvsimFlags) profile() hvsim.Profile {
	p := hvsim.Server2022()
	p.NoHyperV, p.NotElevated, p.Pktmon = f.withoutHyperV, f.notElevated, !f.withoutPktmon
	if f.withoutSSHServer {
		p.SSHServer = ""
	}
	return p
}

// folder returns the folder of the host's state, and makes it.
func (f hvsimFlags) folder() (string, error) {
	if f.ephemeral {
		if f.dir != "" {
			return "", usageError{errors.New("--ephemeral makes a folder of its own: leave out --dir")}
		}
		return os.MkdirTemp("", "labctl-hvsim-")
	}
	dir := f.dir
	if dir == "" {
		root, err := state.DefaultRoot()
		if err != nil {
			return "", err
		}
		// Beside the labs' folders, not among them: a lab may be named hvsim.
		dir = filepath.Clean(root) + "-hvsim"
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of the simulated host: %w", err)
	}
	return filepath.Abs(dir)
}

func placeForeign(ctx context.Context, h *hvsim.Host, f hvsimFlags) error {
	for _, name := range f.switches {
		if _, err := h.PlaceSwitch(ctx, name, "made by hand"); err != nil {
			return err
		}
	}
	for _, name := range f.machines {
		if _, err := h.PlaceMachine(name, "made by hand"); err != nil {
			return err
		}
	}
	return nil
}

func printEndpoint(out io.Writer, e hvsim.Endpoint, dir string, f hvsimFlags) error {
	fmt.Fprintf(out, "SIMULATED Hyper-V host: no Windows and no Hyper-V are behind it. Guests: %s.\n\n", f.guests)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "WinRM\thttps://%s:%d/wsman (NTLM or basic)\n", e.Host, e.Port)
	fmt.Fprintf(w, "certificate\tSHA-256 %s\n", e.Fingerprint)
	fmt.Fprintf(w, "user\t%s\n", e.User)
	fmt.Fprintf(w, "password\tin %s\n", e.PasswordFile)
	fmt.Fprintf(w, "SSH jump\t%s@%s:%d, key in %s\n", e.SSH.User, e.SSH.Host, e.SSH.Port, e.SSH.KeyFile)
	fmt.Fprintf(w, "its host key\t%s\n", e.SSH.HostKey)
	for _, system := range []topology.OS{topology.Linux, topology.Windows} {
		if path, ok := e.Images[system]; ok {
			fmt.Fprintf(w, "%s image\t%s\n", system, path)
		}
	}
	fmt.Fprintf(w, "state\t%s\n", dir)
	if len(f.faults) > 0 {
		fmt.Fprintf(w, "faults\t%s\n", strings.Join(f.faults, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "\nInterrupt it to end it.")
	return err
}
