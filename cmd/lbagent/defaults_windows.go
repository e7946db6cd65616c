package main

import (
	"os"
	"path/filepath"

	"l4lab/agent/datapath"
)

// defaultPinDir is a prefix of pins: BPF:\lbagent\services and so on.
const defaultPinDir = "lbagent"

// defaultProfile is the one that can do both modes.
const defaultProfile = string(datapath.ProfileEFW021)

func defaultSocket() string {
	return filepath.Join(os.Getenv("ProgramData"), "lbagent", "lbagent.sock")
}
