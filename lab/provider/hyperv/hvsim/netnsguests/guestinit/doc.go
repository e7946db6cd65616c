// Package guestinit is the first process of a simulated machine, and what the
// machine's own commands say to it. Nobody but netnsguests and its machines
// uses it.
//
// A boot has two halves. The first runs as Main(["boot"]) in new mount, PID,
// UTS and IPC namespaces and in the machine's network namespace: it puts the
// root file system together, gives up the privileges that a guest does not
// have, and executes itself inside as Main(["init"]). That one is the machine's
// init: it applies the seed, starts services, answers requests at Socket and
// tells its parent through file descriptor 3 how far it has come.
//
// It stands in for cloud-init (seed, cloudinit, users, network; package seed/apply) and for systemd
// (unit, manager, service, systemctl) as far as a lab needs them; what it does
// not know is an error that says so, never silence.
package guestinit
