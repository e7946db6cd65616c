package main

import (
	"os"
	"syscall"
)

// hangupSignals are those of a console that closes; that the file has changed is seen without.
func hangupSignals() []os.Signal { return []os.Signal{syscall.SIGHUP} }
