package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
	"l4lab/agent/capability"
	"l4lab/agent/datapath"
)

func newCapabilitiesCommand() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "capabilities [--profile linux|efw-0.21|xdp]",
		Short: "Say what the data path can do on this system, and why not what it cannot",
		Long: `Say what the data path can do on this system, feature by feature, and why not what it
cannot. It is asked of the running agent; without one it is what this system has by default. --profile
shows another system's.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&profile, "profile", "", "of this profile: linux, efw-0.21 or xdp (default the agent's)")
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
		report, err := capabilities(ctx, agent, profile)
		if err != nil {
			return err
		}
		return c.write(report, func(t *table) { capabilityRows(t, report) })
	})
}

func capabilities(ctx context.Context, agent api.Agent, profile string) (api.Capabilities, error) {
	if profile != "" {
		p, err := capability.ParseProfile(profile)
		if err != nil {
			return api.Capabilities{}, usageError{fmt.Errorf("--profile: %w", err)}
		}
		return capability.Report(p), nil
	}
	report, err := agent.Capabilities(ctx)
	if notRunning(err) {
		report = capability.Report(capability.Here(datapath.Profile(defaultProfile)))
		report.Missing = missing(datapath.Requirements())
		return report, nil
	}
	return report, err
}

// missing asks the system; what it may not ask is not known to be missing.
func missing(requirements []datapath.Requirement) (lacks []string) {
	for _, r := range requirements {
		err := r.Probe()
		if err == nil || errors.Is(err, fs.ErrPermission) {
			continue
		}
		lacks = append(lacks, fmt.Sprintf("%s (%s): %v", r.Name, r.Since, err))
	}
	return lacks
}

func capabilityRows(t *table, report api.Capabilities) {
	t.row(fmt.Sprintf("profile %s: %s", report.Profile, report.System))
	for _, m := range report.Missing {
		t.row("missing on this machine: " + m)
	}
	group := ""
	for _, f := range report.Features {
		if f.Group != group {
			group = f.Group
			t.row("")
			t.row(group)
		}
		t.row("  "+f.Name, f.Support, f.Note)
	}
}
