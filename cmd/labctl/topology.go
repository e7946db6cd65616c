package main

import (
	"errors"
	"github.com/spf13/cobra"

	"l4lab/topology"
)

func (a *app) topologyCommand() *cobra.Command {
	var output, provider string
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
			if provider == "hyperv" {
				if len(args) > 0 {
					return usageError{errors.New("--provider is for the built-in topology; FILE has its own block")}
				}
				var err error
				text = topology.HyperVYAML()
				if t, err = topology.Parse("hyperv.yaml", text); err != nil {
					return err
				}
			}
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
			case "svg":
				text = []byte(topology.SVG(t, nil))
			}
			_, err := a.stdout.Write(text)
			return err
		},
	}
	cmd.Flags().Var(choose(&provider, "netns", "hyperv"), "provider", "hyperv adds its block, with what is to be filled in")
	cmd.Flags().VarP(choose(&output, "yaml", "json", "mermaid", "dot", "svg", "schema"), "output", "o", "yaml, json, mermaid, dot, svg, or schema (JSON schema of topology files)")
	return cmd
}
