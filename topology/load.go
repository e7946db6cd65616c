package topology

import (
	"maps"
	"path/filepath"
	"slices"

	"l4lab/strictyaml"
)

// MaxFileSize is the largest topology file in bytes. A thousand backends in
// ten services take a tenth of it.
const MaxFileSize = 1 << 20

// Fault is one thing that is wrong with a topology, Faults are all of them, and
// FileError says that a file could not be read.
type (
	Fault     = strictyaml.Fault
	Faults    = strictyaml.Faults
	FileError = strictyaml.FileError
)

func format() strictyaml.Format {
	return strictyaml.Format{
		Noun:    "topology",
		Start:   "`labctl topology` prints a topology to start from",
		Tag:     "yaml",
		MaxSize: MaxFileSize,
		MaxKeys: 20000,
		Refused: map[string]string{"password": "a password has no place in a file: name the environment variable that holds it (passwordEnv) " +
			"or a file that you alone can read (passwordFile); with neither, labctl asks at the terminal"},
	}
}

// Load reads a topology from a YAML file, or from standard input when path is
// "-". It fails with a *FileError when the file cannot be read and with Faults
// when its content is wrong.
func Load(path string) (Topology, error) {
	name, data, err := format().Load(path)
	if err != nil {
		return Topology{}, err
	}
	t, err := Parse(name, data)
	if err != nil {
		return t, err
	}
	dir := "."
	if path != "-" {
		dir = filepath.Dir(path)
	}
	if err := t.Providers.resolve(dir); err != nil {
		return t, &FileError{Noun: format().Noun, File: name, Err: err}
	}
	return t, nil
}

// Parse reads a topology from YAML text (JSON is YAML, too); name stands in
// the faults and is not opened. The reading is strict (package strictyaml), and what
// Validate finds is a fault as well. Fields that may be left out get their
// defaults. An error is always Faults, all of them at once.
func Parse(name string, data []byte) (Topology, error) {
	var t Topology
	r := format().Read(name, data, &t)
	fillDefaults(&t, r.Has)
	r.Add(validate(t, inFileOrder(r, t.Nodes))...)
	if err := r.Err(); err != nil {
		return Topology{}, err
	}
	return t, nil
}

// inFileOrder returns the nodes' names as they stand in the file.
func inFileOrder(r *strictyaml.Reading, nodes map[string]Node) []string {
	return slices.SortedFunc(maps.Keys(nodes), func(a, b string) int {
		switch {
		case r.Before("nodes."+a, "nodes."+b):
			return -1
		case r.Before("nodes."+b, "nodes."+a):
			return 1
		}
		return 0
	})
}
