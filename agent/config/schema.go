package config

import (
	_ "embed"
	"slices"
)

//go:embed schema.json
var schema []byte

// Schema returns the JSON schema of a config file, for editors and other checkers.
// What a schema cannot say (no two services have one frontend, …) Validate says.
//
// The file is made from the Go types by a test, which fails when the two differ: the
// library that makes it, and the YAML library that it brings, would otherwise be
// initialised at each start of lbagent.
func Schema() []byte { return slices.Clone(schema) }
