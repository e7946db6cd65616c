// Package e2e drives labctl as a user does: the built binaries, real packets, on
// labs of whatever provider a run names. Each spec reads as a promise.
//
//	go test ./e2e                                               # as root
//	go test ./e2e -args -provider hyperv-sim -labels 'dsr && !slow'
//	labctl e2e --procs 4 --junit e2e.xml                        # with nothing but the binaries
//
// The specs are run by several processes, which claim one after another; each has
// a state folder and lab names of its own, so that runs get on side by side, too.
// README.md says how to run it, what promises what, and which seeded fault is
// caught by what.
package e2e
