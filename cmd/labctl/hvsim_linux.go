package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/hyperv/hvsim/netnsguests"
)

// guestCommandName is the hidden command that a guest's first process is.
const guestCommandName = "hvsim-guest"

// hvsimGuests makes guests of network namespaces.
func (a *app) hvsimGuests(ctx context.Context, o hvsim.Options, name string) (hvsim.Guests, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find labctl's own program: %w", err)
	}
	return netnsguests.New(ctx, netnsguests.Options{
		Name: name, Dir: filepath.Join(o.Dir, "guests"), Program: o.Program, Self: []string{self, guestCommandName},
		BootTime: o.BootTime, Faults: guestFaults(o.Faults), Log: o.Log,
	})
}

// guestFaults says what goes wrong inside a guest; the rest is the host's. A
// fault may name the node alone, which ends the machine's name: LAB-NODE.
func guestFaults(faults []hvsim.Fault) func(machine string) netnsguests.Faults {
	return func(machine string) netnsguests.Faults {
		names := []string{machine}
		for _, rest, found := strings.Cut(machine, "-"); found; _, rest, found = strings.Cut(rest, "-") {
			names = append(names, rest)
		}
		return netnsguests.Faults{RebootHangs: hvsim.Befalls(faults, hvsim.FaultRebootHangs, names...)}
	}
}

// guestCommand is the first process of a simulated guest.
func (a *app) guestCommand() *cobra.Command {
	return &cobra.Command{
		Use: guestCommandName, Hidden: true, DisableFlagParsing: true, Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if code := netnsguests.GuestMain(args); code != 0 {
				return &exitCode{code}
			}
			return nil
		},
	}
}
