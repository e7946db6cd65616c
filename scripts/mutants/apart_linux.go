package main

import "syscall"

// apart has a program run in a group of its own, so that the terminal's Ctrl-C comes to
// it once, from here: the first one has the suite remove its labs, a second one ends it
// at once. It is interrupted, too, when the thread that started it ends.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
}
