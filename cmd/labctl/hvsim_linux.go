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
	"l4lab/lab/provider/hyperv/hvsim/qemuguests"
	"l4lab/lab/provider/qemu/image"
)

// guestCommandName is the hidden command that a guest's first process is.
const guestCommandName = "hvsim-guest"

// hvsimGuests makes guests that carry packets.
func (a *app) hvsimGuests(ctx context.Context, o *hvsim.Options, f hvsimFlags) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find labctl's own program: %w", err)
	}
	namespaces := netnsguests.Options{
		Name: f.guestsName, Dir: filepath.Join(o.Dir, "guests"), Program: o.Program, Self: []string{self, guestCommandName},
		BootTime: o.BootTime, Faults: guestFaults(o.Faults), Log: o.Log,
	}
	if f.guests == "netns" {
		o.Guests, err = netnsguests.New(ctx, namespaces)
		return err
	}
	o.LinuxDisk = f.linuxImage
	if o.LinuxDisk == "" {
		if o.LinuxDisk, err = a.linuxDisk(ctx); err != nil {
			return err
		}
	}
	if o.LinuxDisk, err = filepath.Abs(o.LinuxDisk); err != nil {
		return err
	}
	o.Guests, err = qemuguests.New(ctx, qemuguests.Options{Options: namespaces})
	return err
}

// linuxDisk returns a disk of the Debian image that firmware boots, made when it
// is not there.
func (a *app) linuxDisk(ctx context.Context) (string, error) {
	first, err := firstBoot()
	if err != nil {
		return "", err
	}
	images, err := image.DefaultStore()
	if err != nil {
		return "", err
	}
	return images.BootableDebian(ctx, first, a.say)
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
