package main

import (
	"cmp"
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

// beside returns the path of a program in labctl's own folder.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s beside labctl: %w", name, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// firstBoot returns the path of the program that images get: what the
// environment names, else what lies beside labctl.
func firstBoot() (string, error) {
	path, err := beside(lab.FirstBootName)
	path = cmp.Or(os.Getenv("LABCTL_FIRSTBOOT"), path)
	if path == "" {
		return "", fmt.Errorf("%w; name it with LABCTL_FIRSTBOOT", err)
	}
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s, which images get, is not at %s: build it with `make build`, or name it with LABCTL_FIRSTBOOT", lab.FirstBootName, path)
	}
	return path, nil
}
