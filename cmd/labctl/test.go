package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"l4lab/lab/probe"
	"l4lab/topology"
)

func (a *app) testCommand() *cobra.Command {
	var mode, output, junit, pcap string
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Prove the packet paths from captured packets; exit 1 when a check fails",
		Long: `Send client traffic through every service in the modes asked for, capture it on
the switch and on the nodes, and judge each promise of the paths from the packets.

A check that the packets neither bear out nor refute is shown as unverifiable and
does not fail the test by itself; captures that lost frames do.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			modes := []topology.Mode{topology.Mode(mode)}
			if mode == "all" {
				modes = []topology.Mode{topology.DSR, topology.SNAT}
			}
			l, err := a.existing(nil)
			if err != nil {
				return err
			}
			o := probe.Options{Modes: modes}
			if output == "text" {
				o.Progress = func(text string) { fmt.Fprintln(a.stderr, "  "+text) }
			}
			if pcap != "" {
				if err := os.MkdirAll(pcap, 0o755); err != nil {
					return fmt.Errorf("make the folder for captures: %w", err)
				}
				o.Pcapng = func(service uint32, mode topology.Mode) (io.WriteCloser, error) {
					return os.Create(filepath.Join(pcap, fmt.Sprintf("service%d-%s.pcapng", service, mode)))
				}
			}
			report, err := l.Test(cmd.Context(), o)
			if err != nil {
				return err
			}
			if junit != "" {
				if err := writeJUnit(junit, report); err != nil {
					return err
				}
			}
			if output == "json" {
				err = report.WriteJSON(a.stdout)
			} else {
				err = report.WriteText(a.stdout)
			}
			if err == nil && report.Failed() {
				return &exitCode{exitFailure}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.Var(choose(&mode, "all", "dsr", "snat"), "mode", "dsr, snat or all")
	outputFlag(f, &output)
	f.StringVar(&junit, "junit", "", "write the result as JUnit XML to this file too")
	f.StringVar(&pcap, "pcap", "", "keep the captures in this folder, one pcapng file a service and mode")
	return cmd
}

func writeJUnit(path string, report probe.Report) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the JUnit report: %w", err)
	}
	if err := report.WriteJUnit(f); err != nil {
		f.Close()
		return fmt.Errorf("write the JUnit report: %w", err)
	}
	return f.Close()
}
