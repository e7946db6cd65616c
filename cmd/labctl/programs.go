package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/topology"
)

// programRequirements say whether the binaries that nodes get are there, each once.
func programRequirements(programs lab.Programs) []provider.Requirement {
	var requirements []provider.Requirement
	var seen []string
	for _, system := range []topology.OS{topology.Linux, topology.Windows} {
		path, wanted := programs[system]
		if !wanted || slices.Contains(seen, path) {
			continue
		}
		seen = append(seen, path)
		r := provider.Requirement{Name: filepath.Base(path), OK: true, Fatal: true, Found: path}
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			r.OK, r.Found, r.Remedy = false, fmt.Sprintf("not at %s", path), "build it with `make build`, or name it with "+lab.FlagOf(system)
		}
		requirements = append(requirements, r)
	}
	return requirements
}
