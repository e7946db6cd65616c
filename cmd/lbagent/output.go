package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// outputFlag is -o text|json.
type outputFlag struct{ format string }

func (o *outputFlag) add(cmd *cobra.Command) {
	o.format = "text"
	cmd.Flags().VarP(o, "output", "o", "output format: text or json")
}

// String, Set and Type make it a pflag.Value.
func (o *outputFlag) String() string { return o.format }

// Set refuses what is no format.
func (o *outputFlag) Set(s string) error {
	if s != "text" && s != "json" {
		return fmt.Errorf("%q is no output format: text or json", s)
	}
	o.format = s
	return nil
}

// Type names the value in the help.
func (o *outputFlag) Type() string { return "format" }

// write prints v as JSON, or what text makes of it.
func (o *outputFlag) write(cmd *cobra.Command, v any, text func(*table)) error {
	if o.format == "json" {
		encoder := json.NewEncoder(cmd.OutOrStdout())
		encoder.SetIndent("", "  ")
		return encoder.Encode(v)
	}
	t := &table{tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)}
	text(t)
	return t.w.Flush()
}

// table prints rows in columns.
type table struct{ w *tabwriter.Writer }

func (t *table) row(cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = fmt.Sprint(c)
	}
	_, _ = fmt.Fprintln(t.w, strings.Join(texts, "\t")) // Flush reports what failed
}
