package datapath

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"l4lab/agent/pin"
	"l4lab/bpf"
)

// Nothing in this file was run on a Windows host. It rests on these facts of
// eBPF for Windows (efW) 0.21 and cilium/ebpf's Windows build:
//
//   - ebpf.LoadCollection loads a native image (.sys) and returns its maps and
//     programs by name; sizes are fixed in the image;
//   - pins are names such as BPF:\lbagent\config, and live until they are removed or
//     the machine restarts;
//   - there are no batches and no link update, and XDP for Windows refuses to
//     replace an attached program: an agent that finds an attachment keeps its
//     program as it is. A new image needs `lbagent unload` first.

// tableSize is MAGLEV_TABLE_SIZE of bpf/lib/maps.h: inner maps must have the
// template's size there.
const tableSize = 16381

// linkPin is the pin of the attachment, beside the maps'.
const linkPin = "link"

// image is the Datapath of Windows.
type image struct {
	options  Options
	maps     *Maps
	program  *ebpf.Program // nil when an earlier agent's attachment is kept
	attached link.Link     // nil before Attach
	tookOver bool
}

var _ Datapath = (*image)(nil)

// Requirements are what can be asked before the image is loaded: nothing. The
// loader's own error says which export or extension is missing.
func Requirements() []Requirement { return nil }

// Load takes over what is pinned under options.PinDir, or loads options.Image.
func Load(options Options) (Datapath, error) {
	if err := checkRequirements(options.Requirements); err != nil {
		return nil, err
	}
	table := ebpf.MapSpec{Type: ebpf.WindowsArray, KeySize: 4, ValueSize: 4}
	byName, err := pinnedMaps(options.PinDir)
	if err != nil {
		return nil, err
	}
	if byName != nil {
		maps, err := newMaps(byName, table, tableSize)
		if err != nil {
			return nil, err
		}
		options.step("maps: %d taken over", len(byName))
		return &image{options: options, maps: maps, tookOver: true}, nil
	}
	if options.Image == "" {
		return nil, errors.New("load the data path: no image (.sys) given, see --image")
	}
	collection, err := ebpf.LoadCollection(options.Image)
	if err != nil {
		return nil, fmt.Errorf("load the native image %s (is eBPF for Windows installed, and the image signed by somebody this machine trusts?): %w",
			options.Image, err)
	}
	defer collection.Close()
	maps, err := newMaps(collection.Maps, table, tableSize)
	if err != nil {
		return nil, fmt.Errorf("native image %s: %w", options.Image, err)
	}
	for _, name := range mapNames {
		if err := collection.Maps[name].Pin(pin.Name(options.PinDir, name)); err != nil {
			return nil, errors.Join(fmt.Errorf("pin map %s: %w", name, err), unpinMaps(collection.Maps))
		}
		delete(collection.Maps, name) // ours now: collection.Close leaves it open
	}
	p := &image{options: options, maps: maps, program: collection.DetachProgram(bpf.LBProgLb)}
	if p.program == nil {
		return nil, errors.Join(fmt.Errorf("native image %s has no program %q", options.Image, bpf.LBProgLb), p.Unload())
	}
	options.step("maps: %d created; image %s loaded", len(mapNames), options.Image)
	return p, nil
}

// pinnedMaps opens the maps of an earlier agent, nil when there are none.
func pinnedMaps(prefix string) (map[string]*ebpf.Map, error) {
	byName := make(map[string]*ebpf.Map, len(mapNames))
	for _, name := range mapNames {
		m, err := ebpf.LoadPinnedMap(pin.Name(prefix, name), nil)
		if errors.Is(err, fs.ErrNotExist) && len(byName) == 0 {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("open the pinned map %s: %w; `lbagent unload` removes what is left of an earlier agent",
				pin.Name(prefix, name), err)
		}
		byName[name] = m
	}
	return byName, nil
}

func unpinMaps(byName map[string]*ebpf.Map) error {
	var faults []error
	for _, m := range byName {
		if m.IsPinned() {
			faults = append(faults, m.Unpin())
		}
	}
	return errors.Join(faults...)
}

func (p *image) Maps() *Maps    { return p.maps }
func (p *image) TookOver() bool { return p.tookOver }

// Attach binds the program to the one interface and pins the attachment, or
// keeps the attachment that is pinned.
func (p *image) Attach() error {
	path := pin.Name(p.options.PinDir, linkPin)
	kept, err := link.LoadPinnedLink(path, nil)
	if err == nil {
		p.attached = kept
		p.options.step("attached to %s: the earlier agent's program goes on", p.options.Interface)
		return nil
	}
	if p.program == nil {
		return fmt.Errorf("open the pinned attachment %s: %w; run `lbagent unload`, then start again", path, err)
	}
	attached, err := attachToInterface(p.program, p.options.Profile, p.options.Index)
	if err != nil {
		return fmt.Errorf("attach to %s (interface %d) with profile %s: %w",
			p.options.Interface, p.options.Index, p.options.Profile, err)
	}
	if err := attached.Pin(path); err != nil {
		return errors.Join(fmt.Errorf("pin the attachment: %w", err), attached.Close())
	}
	p.attached = attached
	p.options.step("attached to %s with profile %s", p.options.Interface, p.options.Profile)
	return nil
}

// Attachment reports what this agent attached: Windows has no way to ask an
// interface for its program.
func (p *image) Attachment() (Attachment, error) {
	if p.attached == nil {
		return Attachment{}, nil
	}
	info, err := p.attached.Info()
	if err != nil {
		return Attachment{}, fmt.Errorf("read the attachment's info: %w", err)
	}
	return Attachment{ProgramID: uint32(info.Program), Mode: "native"}, nil
}

func (p *image) Close() error {
	var faults []error
	if p.attached != nil {
		faults = append(faults, p.attached.Close())
	}
	if p.program != nil {
		faults = append(faults, p.program.Close())
	}
	return errors.Join(append(faults, p.maps.close())...)
}

func (p *image) Unload() error {
	return errors.Join(Unload(p.options.PinDir), p.Close())
}

// Unload removes the pins under a prefix; the last one of the attachment detaches.
func Unload(prefix string) error { return pin.RemoveAll(prefix, linkPin, mapNames[:]) }
