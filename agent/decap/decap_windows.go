package decap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l4lab/agent/api"
	"l4lab/agent/pin"
	"l4lab/bpf"
)

// Nothing in this file was run on a Windows host. It rests on eBPF for Windows
// (efW) 0.21, the last release whose XDP hook has a working
// bpf_xdp_adjust_head: ebpf.LoadCollection loads a native image, XDP_TEST without
// parameters takes every interface (harmless here: the program strips only what
// is addressed to this machine), and pins are names such as BPF:\decap\link.

const linkPin = "link"

// Attach loads o.Image, configures it, attaches and pins it. An attachment that
// is pinned already is kept and gets the configuration.
func Attach(ctx context.Context, o Options) (string, error) {
	if err := o.check(); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if o.Hook != XDP {
		return "", &OptionError{"hook", "Windows has no TC: take xdp"}
	}
	if config, err := ebpf.LoadPinnedMap(pin.Name(o.PinDir, configMap), nil); err == nil {
		defer config.Close()
		return "kept, configuration written", writeConfig(config, o.Tunnels)
	}
	if o.Image == "" {
		return "", fmt.Errorf("%w without a native image: give --image decap_xdp.sys; a JIT build of efW 0.21 loads the object instead: "+
			"netsh ebpf add program decap_xdp.o xdp_test interface=%q, and its map %s has to be written by other means",
			ErrUnsupported, o.Interface, configMap)
	}
	collection, err := ebpf.LoadCollection(o.Image)
	if err != nil {
		return "", fmt.Errorf("load the native image %s (is efW 0.21 installed, test signing on, the image signed?): %w", o.Image, err)
	}
	defer collection.Close()
	p, config, stats := collection.Programs[bpf.DecapXDPProgDecapXdp], collection.Maps[configMap], collection.Maps[statsMap]
	if p == nil || config == nil || stats == nil {
		return "", fmt.Errorf("native image %s lacks %s, %s or %s: is it made from decap_xdp.o?", o.Image, bpf.DecapXDPProgDecapXdp, configMap, statsMap)
	}
	if err := writeConfig(config, o.Tunnels); err != nil {
		return "", err
	}
	attached, err := link.AttachRawLink(link.RawLinkOptions{Program: p, Attach: ebpf.AttachWindowsXDPTest})
	if err != nil {
		return "", fmt.Errorf("attach %s: %w", o.Image, err)
	}
	defer attached.Close()
	if err := errors.Join(attached.Pin(pin.Name(o.PinDir, linkPin)),
		config.Pin(pin.Name(o.PinDir, configMap)), stats.Pin(pin.Name(o.PinDir, statsMap))); err != nil {
		return "", fmt.Errorf("pin %s: %w", o.Image, errors.Join(err, Detach(ctx, o.PinDir)))
	}
	return fmt.Sprintf("%s on every interface (efW 0.21 takes no single one here); strips %s", o.Image, Describe(o.Tunnels)), nil
}

// Detach removes the pins; the link's detaches.
func Detach(_ context.Context, prefix string) error {
	if err := checkPinDir(prefix); err != nil {
		return err
	}
	return pin.RemoveAll(prefix, linkPin, nil, mapNames())
}

// Status reads the pins. Windows cannot be asked what is attached to an
// interface: Attached says that the link's pin exists.
func Status(_ context.Context, prefix string) (api.DecapStatus, error) {
	if err := checkPinDir(prefix); err != nil {
		return api.DecapStatus{}, err
	}
	maps := map[string]*ebpf.Map{}
	defer func() { closeMaps(maps) }()
	for _, name := range mapNames() {
		m, err := ebpf.LoadPinnedMap(pin.Name(prefix, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			return api.DecapStatus{}, nil
		}
		if err != nil {
			return api.DecapStatus{}, fmt.Errorf("open the pinned map %s: %w", name, err)
		}
		maps[name] = m
	}
	tunnels, err := readConfig(maps[configMap])
	if err != nil {
		return api.DecapStatus{}, err
	}
	counted, err := readTraffic(maps[statsMap])
	if err != nil {
		return api.DecapStatus{}, err
	}
	l, err := link.LoadPinnedLink(pin.Name(prefix, linkPin), nil)
	if err == nil {
		defer l.Close()
	}
	return status(err == nil, "", XDP, tunnels, counted), nil
}
