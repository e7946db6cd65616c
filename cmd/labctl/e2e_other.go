//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) e2eCommand() *cobra.Command {
	return &cobra.Command{
		Use: "e2e", Short: "Run the end-to-end suite (on Linux)", DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("the end-to-end suite runs on Linux; from there, --provider hyperv tests a lab on this host (docs/hyperv.md)")
		},
	}
}

// e2ePartCommand is there where the suite is.
func (a *app) e2ePartCommand() *cobra.Command {
	return &cobra.Command{Use: "e2e-process", Hidden: true}
}
