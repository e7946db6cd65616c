package simhost

import (
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim"
)

// folder is where a lab's folder keeps its host's.
const folder = "hvsim"

// daemon is the process that runs a lab's host.
type daemon struct {
	fabric.Process
	Endpoint hvsim.Endpoint `json:"endpoint"`
}
