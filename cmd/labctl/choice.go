package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// choice is a flag whose value is one of a few words; any other is refused
// while the command line is read.
type choice struct {
	value   *string
	allowed []string
}

// choose binds a string to a choice and sets it to the default, which is one
// of the words, or "" for none.
func choose(value *string, byDefault string, others ...string) pflag.Value {
	*value = byDefault
	allowed := others
	if byDefault != "" {
		allowed = slices.Concat([]string{byDefault}, others)
	}
	return &choice{value, allowed}
}

func (c *choice) String() string { return *c.value }
func (c *choice) Type() string   { return "word" }

func (c *choice) Set(value string) error {
	if !slices.Contains(c.allowed, value) {
		return fmt.Errorf("expected one of %s", strings.Join(c.allowed, ", "))
	}
	*c.value = value
	return nil
}

// outputFlag is -o of the commands that print text or JSON.
func outputFlag(flags *pflag.FlagSet, output *string) {
	flags.VarP(choose(output, "text", "json"), "output", "o", "text or json")
}
