package main

import (
	"os"
	"syscall"
)

// hangupSignals ask the agent to read its config file anew.
func hangupSignals() []os.Signal { return []os.Signal{syscall.SIGHUP} }
