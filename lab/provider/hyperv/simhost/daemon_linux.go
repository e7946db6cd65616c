package simhost

import "l4lab/lab/provider/hyperv/hvsim"

// folder is where a lab's folder keeps its host's.
const folder = "hvsim"

// daemon is the process that runs a lab's host.
type daemon struct {
	PID int `json:"pid"`
	// Start is the process's start time in clock ticks since boot (field 22 of
	// /proc/PID/stat); with Boot it makes a pid unique.
	Start    uint64         `json:"start"`
	Boot     string         `json:"boot"`
	Endpoint hvsim.Endpoint `json:"endpoint"`
}
