//go:build !windows

package main

import "github.com/spf13/cobra"

// ranAsService: only Windows starts services by calling into them.
func ranAsService() (code int, ran bool) { return 0, false }

// systemCommands are those that only one system has.
func systemCommands() []*cobra.Command { return nil }
