package decap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l4lab/agent/pin"
)

// Names in the pin directory, beside the maps'. A bpffs holds no files, but it
// does hold symbolic links: their texts remember what the kernel does not tell.
const (
	xdpLinkPin    = "xdp_link"
	tcLinkPin     = "tc_link"
	tcProgramPin  = "tc_program"
	interfaceMark = "interface"
	// clsactMark says that we added the clsact qdisc; its text is the interface.
	clsactMark = "clsact"
)

// pinDir is the directory of one attachment.
type pinDir struct {
	path string
	lock *os.File
}

// openPins makes the directory if need be and locks it.
func openPins(path string) (*pinDir, error) {
	lock, err := pin.Open(path, errors.New("another lbagent is at work on it: try again when it is done"))
	if err != nil {
		return nil, err
	}
	d := &pinDir{path: path, lock: lock}
	if err := d.removeBeside(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *pinDir) close() error { return d.lock.Close() }

func (d *pinDir) file(name string) string { return filepath.Join(d.path, name) }

func (d *pinDir) has(name string) bool {
	_, err := os.Lstat(d.file(name))
	return err == nil
}

// empty says that no attachment was pinned here.
func (d *pinDir) empty() bool {
	return !d.has(xdpLinkPin) && !d.has(tcLinkPin) && !d.has(tcProgramPin)
}

// maps opens the pinned maps, those that are there.
func (d *pinDir) maps() (map[string]*ebpf.Map, error) {
	maps := map[string]*ebpf.Map{}
	for _, name := range mapNames() {
		m, err := ebpf.LoadPinnedMap(d.file(name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open the pinned map %s: %w", d.file(name), errors.Join(pin.Explain(err), closeMaps(maps)))
		}
		maps[name] = m
	}
	return maps, nil
}

// pinMaps pins those of p's maps that are not the pinned ones.
func (d *pinDir) pinMaps(c *change, p *program) error {
	for name, m := range p.maps {
		if p.kept[name] {
			continue
		}
		if err := d.pinNew(c, name, m.Pin); err != nil {
			return err
		}
	}
	return nil
}

func (d *pinDir) removeLink(name string) error { return pin.RemoveLink(d.file(name)) }

// mark makes or replaces a symbolic link with a text, or removes it for "".
func (d *pinDir) mark(name, text string) error {
	if text != "" && d.read(name) == text {
		return nil
	}
	if err := d.remove(name); err != nil || text == "" {
		return err
	}
	if err := os.Symlink(text, d.file(name)); err != nil {
		return fmt.Errorf("note %s in the pin directory: %w", name, err)
	}
	return nil
}

// read returns a mark's text, "" when there is none.
func (d *pinDir) read(name string) string {
	text, err := os.Readlink(d.file(name))
	if err != nil {
		return ""
	}
	return text
}

// iface returns the interface's name, "" when it was not noted.
func (d *pinDir) iface() string { return d.read(interfaceMark) }

func (d *pinDir) remove(name string) error {
	if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the pin: %w", err)
	}
	return nil
}

// removeFilter removes our clsact filter if its program is pinned here.
func (d *pinDir) removeFilter() error { return d.forget(d.filter()) }

// forget removes a filter and its pins.
func (d *pinDir) forget(f pinnedFilter) error {
	if err := f.delete(); err != nil {
		return err
	}
	return errors.Join(d.remove(tcProgramPin), d.remove(clsactMark))
}

// removeAll undoes everything and removes the directory unless something of
// somebody else's is in it.
func (d *pinDir) removeAll() error {
	faults := []error{d.removeLink(xdpLinkPin), d.removeLink(tcLinkPin), d.removeFilter()}
	for _, name := range append(mapNames(), interfaceMark) {
		faults = append(faults, d.remove(name))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if err := os.Remove(d.path); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the pin directory: %w", err)
	}
	return nil
}

// attachment says which hook is pinned and whether the kernel still has it. A
// link whose interface was deleted has the index 0.
func (d *pinDir) attachment() (hook Hook, attached bool, err error) {
	for _, name := range []string{xdpLinkPin, tcLinkPin} {
		l, err := pin.Link(d.file(name))
		if err != nil {
			return "", false, err
		}
		if l == nil {
			continue
		}
		defer l.Close()
		info, err := l.Info()
		if err != nil {
			return "", false, fmt.Errorf("read the pinned link %s: %w", d.file(name), err)
		}
		if xdp := info.XDP(); xdp != nil {
			return XDP, xdp.Ifindex != 0, nil
		}
		if tcx := info.TCX(); tcx != nil {
			return TC, tcx.Ifindex != 0, nil
		}
		return "", false, fmt.Errorf("the pinned link %s is neither XDP nor TCX", d.file(name))
	}
	if !d.has(tcProgramPin) {
		return "", false, nil
	}
	p, err := ebpf.LoadPinnedProgram(d.file(tcProgramPin), nil)
	if err != nil {
		return "", false, fmt.Errorf("open the pinned program %s: %w", d.file(tcProgramPin), pin.Explain(err))
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", false, fmt.Errorf("read the pinned program %s: %w", d.file(tcProgramPin), err)
	}
	id, _ := info.ID()
	attached, err = filterAttached(d.iface(), id)
	return TC, attached, err
}
