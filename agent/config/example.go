package config

import (
	_ "embed"
	"slices"
)

//go:embed example.yaml
var example []byte

// Example returns a config with comments to start from.
func Example() []byte { return slices.Clone(example) }
