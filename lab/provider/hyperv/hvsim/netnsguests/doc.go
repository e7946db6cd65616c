// Package netnsguests gives the simulated Hyper-V host guests that carry real
// packets. A switch is a bridge, the host's adapter and every machine are
// network namespaces on it (package fabric), and programs run at the kernel's
// own XDP and TC hooks.
//
// A Linux machine has mount, PID, UTS and IPC namespaces and a root file system
// of its own: this machine's system folders below, the machine's disk above
// (overlayfs). Its first process is this program again (Options.Self), which
// applies the NoCloud seed as cloud-init does, starts the enabled units and an
// OpenSSH server, and answers the machine's systemctl and journalctl. None of
// the latter is systemd, and each says so.
//
// A Windows machine is emulated on the same base: the guest's verbs change what
// they would change on Windows as far as Linux has it (addresses, services,
// files, captures, restarts), remember the rest (firewall, test signing,
// installed packages), and run the Linux build of lbagent where Windows would
// run lbagent.exe. The firewall's rules are remembered, not enforced, and
// lbagent's own web server stands in for IIS.
package netnsguests

import (
	"log/slog"
	"time"
)

// Options say where the guests live and what they are made of.
type Options struct {
	// Name begins the names of the guests' namespaces, NAMEhhhhhh-…, which `ip
	// netns` lists; hhhhhh follows from Dir. 1 to 8 letters, digits or dashes.
	Name string
	// Dir is a folder of the instance's own; what bears its path as a mark is the
	// instance's. New removes what an earlier instance with this folder left.
	Dir string
	// Program is the Linux build of lbagent, which stands in for lbagent.exe.
	Program string
	// Self is the command line that runs GuestMain: this program and a hidden
	// subcommand of it. The program must be static or need only system libraries.
	Self []string
	// BootTime is added to each boot.
	BootTime time.Duration
	// NeedImages has a Windows guest refuse to start what names a native image
	// (--image) that is not on its disk, as Windows does. Without it only the
	// guest's log says so: the Linux build brings its own data path.
	NeedImages bool
	// Faults returns what shall go wrong with a machine of this name; nil: nothing.
	Faults func(machine string) Faults
	// Log gets what the guests do; nil: slog's default.
	Log *slog.Logger
}

// Faults is what can go wrong with a machine.
type Faults struct {
	// NeverBoots: it is on, and nothing is ever heard of it.
	NeverBoots bool
	// RebootHangs: it never comes back from a restart; turning it off and on helps.
	RebootHangs bool
	// DiskBytes is how much its disk holds; 0: as much as there is.
	DiskBytes int64
}
