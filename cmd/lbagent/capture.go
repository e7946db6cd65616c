package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"l4lab/lab/capture"
)

// newCaptureCommand is `lbagent capture`: frames for a capture.Remote.
func newCaptureCommand() *cobra.Command {
	var (
		iface, address string
		all            bool
	)
	cmd := &cobra.Command{
		Use:   "capture --interface NAME | --address ADDRESS",
		Short: "Stream an interface's frames to standard output, for labctl",
		Long: `Stream the frames of an interface to standard output, in labctl's own encoding, until the
standard input ends or SIGTERM or SIGINT comes; then say how many were dropped. When it is
run over SSH, the connections of that SSH server are left out, since the capture would record
itself being sent.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := interfaceOf(iface, address)
			if err != nil {
				return usageError{err}
			}
			var options capture.Options
			if connection := os.Getenv("SSH_CONNECTION"); connection != "" && !all {
				if options.Filter, err = withoutSSH(connection); err != nil {
					return err
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			go func() {
				_, _ = io.Copy(io.Discard, cmd.InOrStdin())
				cancel()
			}()
			return capture.Stream(ctx, cmd.OutOrStdout(), name, options)
		},
	}
	cmd.Flags().StringVar(&iface, "interface", "", "interface to capture on")
	cmd.Flags().StringVar(&address, "address", "", "address of the interface to capture on, instead of its name")
	cmd.Flags().BoolVar(&all, "all", false, "leave out nothing, not even one's own SSH connection")
	return cmd
}

// interfaceOf returns the name that was given, or that of the interface with an address.
func interfaceOf(name, address string) (string, error) {
	if (name == "") == (address == "") {
		return "", errors.New("one of --interface and --address is needed")
	}
	if name != "" {
		return name, nil
	}
	wanted, err := netip.ParseAddr(address)
	if err != nil {
		return "", fmt.Errorf("--address: %w", err)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("list interfaces: %w", err)
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			return "", fmt.Errorf("list the addresses of %s: %w", i.Name, err)
		}
		for _, a := range addresses {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Unmap() == wanted && i.Flags&net.FlagLoopback == 0 {
				return i.Name, nil
			}
		}
	}
	return "", fmt.Errorf("no interface has the address %s", wanted)
}

// withoutSSH reads sshd's "CLIENT PORT SERVER PORT" (sshd(8), ENVIRONMENT).
func withoutSSH(connection string) ([]capture.Instruction, error) {
	fields := strings.Fields(connection)
	if len(fields) != 4 {
		return nil, fmt.Errorf("SSH_CONNECTION %q has not four fields", connection)
	}
	server, err := netip.ParseAddrPort(net.JoinHostPort(fields[2], fields[3]))
	if err != nil {
		return nil, fmt.Errorf("SSH_CONNECTION %q: %w", connection, err)
	}
	if !server.Addr().Unmap().Is4() {
		return nil, nil // not through the lab's switch, which has IPv4
	}
	return capture.ExcludeTCP(server)
}
