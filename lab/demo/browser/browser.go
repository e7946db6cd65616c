// Package browser drives a headless Chromium that runs inside a machine of a lab:
// its packets leave from there, and what it shows is what a person at that machine
// would see.
//
//	b := browser.In(func() (guest.Guest, error) { … })
//	page, err := b.Open(ctx, "http://40.1.1.1/")
//	before, err := page.Screenshot(ctx)
//	err = page.Reload(ctx)
//	after, err := page.Screenshot(ctx)
//	err = page.Close()
//
// The browser is steered by the DevTools protocol over its standard input and output
// (--remote-debugging-pipe), so that nothing listens, any guest with a POSIX shell
// will do, and the browser ends when the pipe does: also when this process is killed.
package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"l4lab/lab/demo"
	"l4lab/lab/guest"
)

// Programs are looked for in this order: the first is Debian's smallest.
var Programs = []string{
	"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "microsoft-edge",
}

// Remedy says what to do where there is none.
const Remedy = "install one: apt-get install chromium-headless-shell"

// Browser is one in a machine, which is looked for when the first page is opened: the
// machine need not be there before. It is for one goroutine.
type Browser struct {
	machine func() (guest.Guest, error)
	found   *program
}

// program is what was found.
type program struct {
	guest         guest.Guest
	path, version string
}

var _ demo.Browser = (*Browser)(nil)

// In returns the browser in a machine.
func In(machine func() (guest.Guest, error)) *Browser { return &Browser{machine: machine} }

// Version is what the program says of itself, "Chromium 156.0.8078.108", once a page
// has been opened.
func (b *Browser) Version() string {
	if b.found == nil {
		return ""
	}
	return b.found.version
}

func (b *Browser) program(ctx context.Context) (*program, error) {
	if b.found != nil {
		return b.found, nil
	}
	g, err := b.machine()
	if err != nil {
		return nil, err
	}
	b.found, err = look(ctx, g)
	return b.found, err
}

// find prints the path of the first program that is there, and its version.
const find = `for p; do
	if path=$(command -v "$p"); then
		echo "$path"
		exec "$path" --version
	fi
done
exit 127`

// look looks for a browser in a machine. demo.ErrNoBrowser is matched when there is
// none, or when the machine cannot be asked: Windows, whose shell is another, and a
// host that runs chosen programs alone.
func look(ctx context.Context, g guest.Guest) (*program, error) {
	var out bytes.Buffer
	argv := append([]string{"sh", "-c", find, "sh"}, Programs...)
	err := g.Run(ctx, guest.Command{Argv: argv, Stdout: &out})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	path, version, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
	if err != nil || path == "" {
		return nil, fmt.Errorf("%w: looked for %s: %w; %s", demo.ErrNoBrowser, strings.Join(Programs, ", "), whyNone(err), Remedy)
	}
	return &program{guest: g, path: path, version: strings.TrimSpace(version)}, nil
}

func whyNone(err error) error {
	if err == nil {
		return errors.New("none was named")
	}
	var exit *guest.ExitError
	if errors.As(err, &exit) && exit.Code == 127 {
		return errors.New("none is in the PATH")
	}
	return err
}
