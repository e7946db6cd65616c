package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"l4lab/lab/provider"
	"l4lab/topology"
)

func (a *app) topologyCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "topology [FILE]",
		Short: "Print a topology: the built-in one, or FILE checked and completed",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if output == "schema" {
				schema, err := topology.Schema()
				if err != nil {
					return err
				}
				_, err = a.stdout.Write(append(schema, '\n'))
				return err
			}
			t, text := topology.Default(), topology.DefaultYAML()
			if len(args) == 1 {
				var err error
				if t, err = topology.Load(args[0]); err != nil {
					return usageError{err}
				}
				if text, err = topology.Marshal(t); err != nil {
					return err
				}
			}
			switch output {
			case "json":
				return writeJSON(a.stdout, t)
			case "mermaid":
				text = []byte(topology.Mermaid(t))
			case "dot":
				text = []byte(topology.DOT(t))
			}
			_, err := a.stdout.Write(text)
			return err
		},
	}
	cmd.Flags().VarP(choose(&output, "yaml", "json", "mermaid", "dot", "schema"), "output", "o", "yaml, json, mermaid, dot, or schema (JSON schema of topology files)")
	return cmd
}

// programRequirement says whether the binary that nodes get is there.
func programRequirement(path string) provider.Requirement {
	r := provider.Requirement{Name: "lbagent", OK: true, Fatal: true, Found: path}
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		r.OK, r.Found, r.Remedy = false, fmt.Sprintf("not at %s", path), "build it with `make build`, or name it with --agent"
	}
	return r
}
