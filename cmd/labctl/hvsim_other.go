//go:build !linux

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"l4lab/lab/provider/hyperv/hvsim"
)

func (a *app) hvsimGuests(context.Context, *hvsim.Options, hvsimFlags) error {
	return errors.New("guests that carry packets need Linux: use --guests none")
}

// guestCommand is there where guests are.
func (a *app) guestCommand() *cobra.Command { return &cobra.Command{Use: "hvsim-guest", Hidden: true} }
