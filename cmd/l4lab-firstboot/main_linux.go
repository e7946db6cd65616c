// Command l4lab-firstboot makes of one of the lab's own Linux images the machine
// that its seed's disc speaks of. Images have it as /usr/lib/l4lab/firstboot, and
// a unit that runs `firstboot firstboot` early in each boot.
//
// It is a program of its own for its first start in a boot, from a disk that
// nothing was read of yet: an emulated machine takes half as long for this one
// as for lbagent with the same inside, which is three times as large.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"l4lab/lab/guest/firstboot"
)

const usage = `usage: l4lab-firstboot firstboot [-wait DURATION]

Find the block device with the volume label cidata, a seed as labctl writes it, and apply it to this machine: hostname,
users and their keys, the SSH server's host key, files, the address for systemd-networkd. A seed that was applied before
has its boot commands run, and no more. What goes wrong is on standard error and makes the exit code 1; the next boot
tries again.
`

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stderr)) }

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("firstboot", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	wait := flags.Duration("wait", firstboot.DefaultWait, "how long the disc may take to appear")
	if len(args) == 0 || args[0] != flags.Name() {
		flags.Usage()
		return 2
	}
	if err := flags.Parse(args[1:]); err != nil || flags.NArg() > 0 {
		if err == nil {
			flags.Usage()
		}
		return 2
	}
	log := newLog(stderr)
	if err := firstboot.Here(log, *wait).Apply(ctx); err != nil {
		log.Error("this machine is not what its seed says", "error", err)
		return 1
	}
	return 0
}

// newLog has no times: the journal and the console have their own.
func newLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}
