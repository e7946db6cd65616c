//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) imageCommand() *cobra.Command {
	return &cobra.Command{
		Use: "image", Short: "Make, list and remove the disks of the qemu provider (Linux)", DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("virtual machines of the qemu provider need Linux")
		},
	}
}
