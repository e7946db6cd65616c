package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"l4lab/agent/decap"
)

// newDecapCommand is `lbagent decap`: a backend's decapsulation program.
func newDecapCommand() *cobra.Command {
	cmd := newDecapAttachCommand()
	cmd.Use = "decap --interface NAME --address ADDRESS --balancer ADDRESS --hook xdp|tc --pin-dir DIR"
	cmd.Short = "Decapsulate DSR's requests on a backend"
	cmd.Long = `Decapsulate DSR's requests on a backend: attach the program, pin it, and exit. The
program stays until "lbagent decap detach". Run again, it changes what differs and keeps
the rest, its counters too.`
	cmd.AddCommand(newDecapAttachCommand(), newDecapStatusCommand(), newDecapDetachCommand())
	return cmd
}

func newDecapAttachCommand() *cobra.Command {
	var (
		options              decap.Options
		hook                 string
		addresses, balancers []string
	)
	cmd := &cobra.Command{
		Use:     "attach --interface NAME --address ADDRESS --balancer ADDRESS --hook xdp|tc --pin-dir DIR",
		Short:   "Attach the program, pin it, and exit (the same as without a subcommand)",
		Example: "  lbagent decap --interface eth0 --address 20.1.1.30 --balancer 20.1.1.1 --hook tc --pin-dir /sys/fs/bpf/decap",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options.Hook = decap.Hook(hook)
			var err error
			if options.Tunnels, err = decap.Pair(addresses, balancers); err != nil {
				return err
			}
			done, err := decap.Attach(cmd.Context(), options)
			if err != nil {
				return fmt.Errorf("decap attach: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), done)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Interface, "interface", "", "interface where encapsulated packets arrive")
	flags.StringSliceVar(&addresses, "address", nil, "this backend's address, the outer destination; one a family")
	flags.StringSliceVar(&balancers, "balancer", nil, "the load balancer's address or the prefix of its outer sources; 0.0.0.0 or :: accepts any")
	flags.StringVar(&hook, "hook", "", "xdp (as on Windows) or tc (as on Linux)")
	flags.BoolVar(&options.Clsact, "clsact", false, "TC by a clsact filter also where the kernel has TCX")
	flags.BoolVar(&options.Generic, "generic", false, "XDP in the slow mode, for drivers without native XDP")
	flags.StringVar(&options.Image, "image", "", "native image (.sys) of the program, on Windows")
	addPinDirFlag(cmd, &options.PinDir)
	return cmd
}

func newDecapStatusCommand() *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:   "status --pin-dir DIR",
		Short: "Show whether the program is attached, and its counters",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return &decap.OptionError{Option: "output", Message: fmt.Sprintf("%q is neither text nor json", output)}
			}
			status, err := decap.Status(cmd.Context(), dir)
			if err != nil {
				return fmt.Errorf("decap status: %w", err)
			}
			out := cmd.OutOrStdout()
			if output == "json" {
				return json.NewEncoder(out).Encode(status)
			}
			if status.Hook == "" {
				_, err = fmt.Fprintln(out, "not attached")
				return err
			}
			state := "attached to"
			if !status.Attached {
				state = "pinned, but no longer attached to"
			}
			_, err = fmt.Fprintf(out, "%s %s (%s), strips %s\ndecapsulated %d packets, %d bytes; passed %d; malformed %d\n",
				state, status.Interface, status.Hook, decap.Describe(status.Tunnels),
				status.Decapsulated, status.Bytes, status.Passed, status.Malformed)
			return err
		},
	}
	addPinDirFlag(cmd, &dir)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func newDecapDetachCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "detach --pin-dir DIR",
		Short: "Detach the program and remove its pins",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := decap.Detach(cmd.Context(), dir); err != nil {
				return fmt.Errorf("decap detach: %w", err)
			}
			return nil
		},
	}
	addPinDirFlag(cmd, &dir)
	return cmd
}

func addPinDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "pin-dir", "", "directory for the pins on a bpffs, such as /sys/fs/bpf/decap")
}
