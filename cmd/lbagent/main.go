// The runtime would read /proc/self/mountinfo at each start to learn of a
// container's share of the processors: a line for each namespace of a lab, in
// each of a lab's hundreds of processes, none of which needs many processors.

//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command lbagent is the program on the nodes: on the balancer it is the agent
// (serve) and the agent's own client (service, mode, neighbor, …, console); on
// backends it strips DSR's outer header (decap) and serves the demo's page (web).
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func main() {
	if code, ran := ranAsService(); ran {
		os.Exit(code)
	}
	os.Exit(run(context.Background(), os.Args[1:]))
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	root := newRootCommand()
	root.SetArgs(args)
	err := execute(ctx, root)
	if err != nil {
		fmt.Fprintln(root.ErrOrStderr(), "lbagent:", err)
	}
	return exitCode(err)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "lbagent",
		Short: "Layer-4 load balancer: Maglev, DSR and SNAT in XDP",
		Long: `lbagent is a layer-4 load balancer on eBPF. ` + "`lbagent serve`" + ` loads and attaches the data path and
stays; the other commands speak to it through its socket. Stopping it leaves traffic flowing,
starting it again takes over; ` + "`lbagent unload`" + ` ends both.`,
		Example: `  lbagent serve --device eth0 --mode dsr &
  lbagent service update --frontend=40.1.1.1:80 --backends=20.1.1.10:80,20.1.1.20:80 --id=1
  lbagent service dumpstate --id 1`,
		SilenceErrors: true,
		SilenceUsage:  true,
		// What fails before this runs is the command line's fault.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmd.ValidateRequiredFlags(); err != nil {
				return err
			}
			started(cmd)
			return nil
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newServeCommand(), newCheckCommand(), newConfigCommand(), newConsoleCommand(), newVersionCommand(), newWebCommand(), newDecapCommand(),
		newRelayCommand(), newCaptureCommand())
	root.AddCommand(newClientCommands()...)
	root.AddCommand(systemCommands()...)
	return root
}

func newVersionCommand() *cobra.Command {
	var output outputFlag
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which version this is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version string `json:"version"`
			}{version()}
			return output.write(cmd, v, func(t *table) { t.row("lbagent", v.Version) })
		},
	}
	output.add(cmd)
	return cmd
}

// version is what the build recorded of the source: a tag, or a revision.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	if revision == "" {
		return info.Main.Version
	}
	return revision[:min(12, len(revision))] + dirty
}
