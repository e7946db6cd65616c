//go:build !linux && !windows

package demo

import "runtime"

// system returns the name of a system of which no more is asked.
func system() (name, kernel string) { return runtime.GOOS, "" }
