package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/goccy/go-yaml"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/strictyaml"
)

// File is a config that was read without a fault.
type File struct {
	Config
	reading *strictyaml.Reading
}

// Load reads a config file, or standard input when path is "-". Overrides,
// which may be nil, has the last word before the config is judged, as flags have. It fails with a
// *strictyaml.FileError when the file cannot be read, and with strictyaml.Faults, all at
// once, when its content is wrong.
func Load(path string, override func(*Config)) (*File, error) {
	name, data, err := format().Load(path)
	if err != nil {
		return nil, err
	}
	return Parse(name, data, override)
}

// Parse is Load for text; name stands in the faults.
func Parse(name string, data []byte, override func(*Config)) (*File, error) {
	c := Default()
	r := format().Read(name, data, &c)
	if override != nil {
		override(&c)
	}
	r.Add(Validate(c)...)
	if err := r.Err(); err != nil {
		return nil, err
	}
	return &File{c, r}, nil
}

// Explain gives an agent's refusal of the file's services its place in the file.
func (f *File) Explain(err error) error {
	var refusal *api.Error
	if !errors.As(err, &refusal) || refusal.Field == "" {
		return err
	}
	return strictyaml.Faults{f.reading.Placed(strictyaml.Fault{Path: refusal.Field, Message: refusal.Message})}
}

// Marshal writes a config that Parse reads back as the same value. What has its default is left
// out where that is none.
func Marshal(c Config) ([]byte, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write the config: %w", err)
	}
	out, err := yaml.JSONToYAML(text)
	if err != nil {
		return nil, fmt.Errorf("write the config as YAML: %w", err)
	}
	return out, nil
}

// Restart names what of two configs differs and is read at the start only.
func Restart(was, is Config) []string {
	var names []string
	for _, part := range []struct {
		name    string
		was, is any
	}{
		{"interface", was.Interface, is.Interface},
		{"addresses", was.Addresses, is.Addresses},
		{"generic", was.Generic, is.Generic},
		{"image", was.Image, is.Image},
		{"profile", was.Profile, is.Profile},
		{"socket", was.Socket, is.Socket},
		{"stateFile", was.StateFile, is.StateFile},
		{"pinDir", was.PinDir, is.PinDir},
		{"sizes", was.Sizes, is.Sizes},
		{"metrics", was.Metrics, is.Metrics},
		{"log.format", was.Log.Format, is.Log.Format},
	} {
		if !reflect.DeepEqual(part.was, part.is) {
			names = append(names, part.name)
		}
	}
	return names
}

// DefaultMode is the mode, 0 when the file leaves it.
func (c Config) DefaultMode() datapath.Mode {
	mode, err := datapath.ParseMode(c.Mode)
	if err != nil {
		return 0
	}
	return mode
}
