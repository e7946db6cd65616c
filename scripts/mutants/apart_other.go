//go:build !linux

package main

import "syscall"

// apart has nothing to say where the suite does not run.
func apart() *syscall.SysProcAttr { return nil }
