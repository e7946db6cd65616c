package decap

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"

	"l4lab/agent/pin"
)

// change is an Attach under way. Its steps add to what is there and say how to
// take that back; what they replace goes only when all of them have succeeded.
type change struct {
	undo    []func() error // last first
	finally []func() error
	held    []io.Closer // what those need until the end
}

func (c *change) onFailure(step func() error) { c.undo = append(c.undo, step) }

func (c *change) onSuccess(step func() error) { c.finally = append(c.finally, step) }

func (c *change) hold(h io.Closer) { c.held = append(c.held, h) }

// finish removes what was replaced. From here on nothing is taken back: the old
// attachment may be gone already, and the new one is complete.
func (c *change) finish() error {
	c.undo = nil
	var faults []error
	for _, step := range c.finally {
		faults = append(faults, step())
	}
	return errors.Join(faults...)
}

// revert brings back what was there before.
func (c *change) revert() error {
	var faults []error
	for i := len(c.undo) - 1; i >= 0; i-- {
		faults = append(faults, c.undo[i]())
	}
	c.undo = nil
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("bring back what was there before: %w", err)
	}
	return nil
}

// holdProgram opens a program that is attached, to bring it back on failure; nil where the process may not:
// to open a program by its id takes CAP_SYS_ADMIN (bpf_prog_get_fd_by_id, kernel/bpf/syscall.c). Then what
// takes its place stays, also when a later step fails.
func (c *change) holdProgram(id ebpf.ProgramID) (*ebpf.Program, error) {
	before, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open program %d, which is attached: %w", id, err)
	}
	c.hold(before)
	return before, nil
}

func (c *change) close() error {
	var faults []error
	for _, h := range c.held {
		faults = append(faults, h.Close())
	}
	return errors.Join(faults...)
}

// besideSuffix ends the name of a pin that is to take an older one's place.
const besideSuffix = "_new"

// pinNew pins under a name, or beside it while an older pin has the name.
func (d *pinDir) pinNew(c *change, name string, pinAt func(path string) error) error {
	at := name
	if d.has(name) {
		at += besideSuffix
		c.onSuccess(func() error {
			if err := os.Rename(d.file(at), d.file(name)); err != nil {
				return fmt.Errorf("replace the pin %s: %w", d.file(name), err)
			}
			return nil
		})
	}
	if err := pinAt(d.file(at)); err != nil {
		return fmt.Errorf("pin %s: %w", d.file(at), pin.Explain(err))
	}
	c.onFailure(func() error { return d.remove(at) })
	return nil
}

// removeBeside removes what an Attach that was killed has left beside its pins.
func (d *pinDir) removeBeside() error {
	var faults []error
	for _, name := range []string{xdpLinkPin, tcLinkPin} {
		faults = append(faults, d.removeLink(name+besideSuffix))
	}
	for _, name := range append(mapNames(), tcProgramPin) {
		faults = append(faults, d.remove(name+besideSuffix))
	}
	return errors.Join(faults...)
}

// note sets a mark and takes it back when c fails; "" removes the mark.
func (d *pinDir) note(c *change, name, text string) error {
	before := d.read(name)
	if err := d.mark(name, text); err != nil {
		return err
	}
	c.onFailure(func() error { return d.mark(name, before) })
	return nil
}
