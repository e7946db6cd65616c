package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"l4lab/agent/config"
	"l4lab/agent/device"
	"l4lab/strictyaml"
)

func newConfigCommand() *cobra.Command {
	printing := func(use, short string, text func() []byte) *cobra.Command {
		return &cobra.Command{
			Use:   use,
			Short: short,
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := cmd.OutOrStdout().Write(text())
				return err
			},
		}
	}
	return group("config", "Print a config file to start from, or its schema",
		printing("example", "Print a config file with comments", config.Example),
		printing("schema", "Print the JSON schema of config files, for editors", config.Schema))
}

// checkResult is what check prints of a file without a fault, and in JSON of any.
type checkResult struct {
	OK        bool     `json:"ok"`
	Interface string   `json:"interface,omitempty"`
	Services  int      `json:"services"`
	Backends  int      `json:"backends"`
	Notes     []string `json:"notes,omitempty"`
	Faults    []fault  `json:"faults,omitempty"`
}

type fault struct {
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"`
	Message string `json:"fault"`
}

func newCheckCommand() *cobra.Command {
	var (
		output outputFlag
		local  bool
	)
	cmd := &cobra.Command{
		Use:   "check CONFIG",
		Short: "Say what is wrong with a config file",
		Long: `Say everything that is wrong with a config file, each fault with its line: unknown keys, values, and
services against each other and against the addresses that the file names. With --local, also
against this machine: that it has the interface, and its addresses. Exit code 2 says that
there is a fault. "-" is standard input.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			result, err := check(args[0], local)
			if err != nil && output.format == "json" {
				return errors.Join(output.write(cmd, faultsOf(err), nil), silent{err})
			}
			if err != nil {
				return err
			}
			return output.write(cmd, result, func(t *table) {
				t.row(fmt.Sprintf("%s is fine: interface %s, %d services, %d backends", args[0], result.Interface, result.Services, result.Backends))
				for _, note := range result.Notes {
					t.row("note: " + note)
				}
			})
		},
	}
	output.add(cmd)
	cmd.Flags().BoolVar(&local, "local", false, "check against this machine's interface and addresses as well")
	return cmd
}

func check(path string, local bool) (checkResult, error) {
	file, err := config.Load(path, nil)
	if err != nil {
		return checkResult{}, err
	}
	result := checkResult{OK: true, Interface: file.Interface, Services: len(file.Services)}
	for _, s := range file.Services {
		result.Backends += len(s.Backends)
	}
	if file.Services == nil {
		result.Notes = append(result.Notes, "the file has no services: they are those of the API")
	}
	if !local {
		if len(file.Addresses) == 0 {
			result.Notes = append(result.Notes, "the file names no addresses of the balancer: --local checks services against this machine's")
		}
		return result, nil
	}
	d, err := device.Read(file.Interface, file.Addresses...)
	if err != nil {
		return checkResult{}, err
	}
	result.Notes = append(result.Notes, fmt.Sprintf("%s has %s", d.Name, d.Addresses()))
	return result, file.On(d.Address4, d.Address6)
}

func faultsOf(err error) checkResult {
	var result checkResult
	var faults strictyaml.Faults
	if !errors.As(err, &faults) {
		result.Faults = []fault{{Message: err.Error()}}
	}
	for _, f := range faults {
		result.Faults = append(result.Faults, fault{f.Line, f.Column, f.Path, f.Message})
	}
	return result
}

// silent is an error that was printed already.
type silent struct{ error }

func (s silent) Error() string { return strings.TrimSpace(firstLine(s.error.Error())) }
func (s silent) Unwrap() error { return s.error }

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
