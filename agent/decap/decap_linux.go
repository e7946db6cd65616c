package decap

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"l4lab/agent/api"
	"l4lab/agent/pin"
)

// Attach brings the program onto the interface, with its configuration, and
// pins everything under o.PinDir. What is there already and right is kept;
// another hook, interface or mode replaces it, once that is in place. It returns
// a sentence that says what was done. When it fails it leaves what it found, or
// nothing if nothing was there; without CAP_SYS_ADMIN, a program that it has updated stays updated. One exchange has a gap: native and generic XDP
// exclude each other on an interface, so the old mode goes first there, and
// comes back when the new one is refused.
func Attach(ctx context.Context, o Options) (done string, err error) {
	if err := o.check(); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	iface, err := interfaceByName(o.Interface)
	if err != nil {
		return "", err
	}
	pins, err := openPins(o.PinDir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, pins.close()) }()
	fresh := pins.empty()
	defer func() {
		if err != nil && fresh {
			err = errors.Join(err, pins.removeAll())
		}
	}()

	p, err := load(o.Hook, pins)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	c := &change{}
	defer func() { err = errors.Join(err, c.close()) }()
	defer func() {
		if err != nil {
			err = errors.Join(err, c.revert())
		}
	}()
	// A new map is filled before the attachment, for a program without
	// configuration passes everything; a kept one serves the program that runs.
	if !p.kept[configMap] {
		if err := writeConfig(p.maps[configMap], o.Tunnels); err != nil {
			return "", pin.Explain(err)
		}
	}
	if err := pins.pinMaps(c, p); err != nil {
		return "", err
	}
	// What is replaced goes last: until then both programs are there, and what the
	// first has stripped the second passes.
	var how string
	if o.Hook == XDP {
		how, err = p.attachXDP(pins, c, iface, o.Generic)
	} else {
		how, err = p.attachTC(pins, c, iface, o.Clsact)
	}
	if err != nil {
		return "", fmt.Errorf("attach %s to %s: %w", p.name, o.Interface, pin.Explain(err))
	}
	if err := p.configure(c, o); err != nil {
		return "", pin.Explain(err)
	}
	if err := pins.note(c, interfaceMark, o.Interface); err != nil {
		return "", err
	}
	if err := c.finish(); err != nil {
		return "", fmt.Errorf("%s is on %s, but what it replaces was not removed: %w", p.name, o.Interface, err)
	}
	return fmt.Sprintf("%s on %s: %s; strips %s", p.name, o.Interface, how, Describe(o.Tunnels)), nil
}

// configure writes to a kept configuration.
func (p *program) configure(c *change, o Options) error {
	m := p.maps[configMap]
	if !p.kept[configMap] {
		return nil
	}
	tunnels, err := readConfig(m)
	if err != nil {
		return err
	}
	c.onFailure(func() error { return writeConfig(m, tunnels) })
	return writeConfig(m, o.Tunnels)
}

// Detach removes the attachment, the pins and the directory, and is content
// when there is nothing. Files in the directory that are not ours stay, and the
// directory with them.
func Detach(ctx context.Context, dir string) (err error) {
	if err := checkPinDir(dir); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	pins, err := openPins(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pins.close()) }()
	return pins.removeAll()
}

// Status reads the pins: configuration, counters, and whether the kernel still
// has the attachment. Nothing pinned is no error: Attached is false. It can be
// asked from any network namespace, except where the kernel is older than 6.6
// and the hook is tc: there it looks for the filter on the interface of that
// name in the caller's namespace.
func Status(ctx context.Context, dir string) (api.DecapStatus, error) {
	if err := checkPinDir(dir); err != nil {
		return api.DecapStatus{}, err
	}
	if err := ctx.Err(); err != nil {
		return api.DecapStatus{}, err
	}
	pins := pinDir{path: dir}
	maps, err := pins.maps()
	if err != nil {
		return api.DecapStatus{}, err
	}
	defer closeMaps(maps)
	if len(maps) < len(mapNames()) {
		return api.DecapStatus{}, nil
	}
	tunnels, err := readConfig(maps[configMap])
	if err != nil {
		return api.DecapStatus{}, err
	}
	counted, err := readTraffic(maps[statsMap])
	if err != nil {
		return api.DecapStatus{}, err
	}
	hook, attached, err := pins.attachment()
	if err != nil {
		return api.DecapStatus{}, err
	}
	st := status(attached, pins.iface(), hook, tunnels, counted)
	st.Clsact = hook == TC && pins.has(tcProgramPin)
	return st, nil
}

func interfaceByName(name string) (netlink.Link, error) {
	iface, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, &OptionError{"interface", fmt.Sprintf("there is no interface %q in this network namespace", name)}
	}
	if err != nil {
		return nil, fmt.Errorf("look up interface %s: %w", name, pin.Explain(err))
	}
	return iface, nil
}
