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
// eBPF for Windows (efW) 0.21.1, read in its sources, and cilium/ebpf's Windows build:
//
//   - ebpf.LoadCollection loads a native image (.sys) and returns its maps and
//     programs by name; sizes are fixed in the image;
//   - pins are names such as BPF:\lbagent\config, and live until they are removed or
//     the machine restarts;
//   - maps of programs and maps hold ids, not what they name (ebpf_maps.c): stages and
//     Maglev tables go with the last handle unless they are pinned themselves, so
//     every one of them is;
//   - an image's loader enters the stages by itself (_ebpf_native_set_initial_map_values of
//     ebpf_native.c); they are entered here again, which does no harm and does not
//     depend on it. An entry is written at the key's first byte: there are ten;
//   - there are no batches and no link update, and XDP for Windows refuses to
//     replace an attached program.
//
// A new image needs `lbagent unload` first, which ends its connections. What is
// attached only calls the stages, so a new image's programs could take their places
// while it stays, if they shared the maps of the old one. The one way to that is
// LIBBPF_PIN_BY_NAME in a map's definition (_ebpf_native_reuse_map): the loader then
// takes the map that is pinned under /ebpf/global/NAME, if type and sizes are the same.
// It is not taken. Those names are the machine's: `config` and `events` of
// somebody else's image would be shared with ours, unasked, where the sizes agree,
// and two balancers could not be told apart by --pin-dir. A map of maps is refused
// unless the template it was made with is alive (inner_map_id). And none of it
// could be tried here: an upgrade that loses connections and says so is better
// than one that may mix two layouts.

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
	table := ebpf.MapSpec{Type: ebpf.WindowsArray, KeySize: 4, ValueSize: 8}
	byName, err := pinnedMaps(options.PinDir)
	if err != nil {
		return nil, err
	}
	if byName != nil {
		maps, err := newMaps(byName, table, tableSize)
		if err != nil {
			return nil, err
		}
		if err := checkStages(options.PinDir); err != nil {
			return nil, errors.Join(err, maps.close())
		}
		maps.keeper = newTableKeeper(maps, options.PinDir)
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
	maps.keeper = newTableKeeper(maps, options.PinDir)
	p := &image{options: options, maps: maps, program: collection.DetachProgram(bpf.LBProgLb)}
	owned := make(map[string]*ebpf.Map, len(mapNames))
	for _, name := range mapNames {
		owned[name] = collection.Maps[name]
		delete(collection.Maps, name) // ours now: collection.Close leaves it open
	}
	if err := p.pin(owned, collection); err != nil {
		return nil, errors.Join(fmt.Errorf("native image %s: %w", options.Image, err), p.Unload())
	}
	options.step("maps: %d created; image %s loaded", len(mapNames), options.Image)
	return p, nil
}

// pin enters the stages and pins all that must outlive the agent but the attachment.
func (p *image) pin(owned map[string]*ebpf.Map, collection *ebpf.Collection) error {
	if p.program == nil {
		return fmt.Errorf("no program %q", bpf.LBProgLb)
	}
	for name, m := range owned {
		if err := m.Pin(pin.Name(p.options.PinDir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	stages := collection.Maps[stagesMap]
	if stages == nil {
		return fmt.Errorf("no map %q", stagesMap)
	}
	for index, name := range stagePrograms {
		stage := collection.Programs[name]
		if stage == nil {
			return fmt.Errorf("no program %q", name)
		}
		if err := stage.Pin(pin.Name(p.options.PinDir, name)); err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
		if err := stages.Put(uint32(index), stage); err != nil {
			return fmt.Errorf("enter program %s as stage %d: %w", name, index, err)
		}
	}
	if err := stages.Pin(pin.Name(p.options.PinDir, stagesMap)); err != nil {
		return fmt.Errorf("pin map %s: %w", stagesMap, err)
	}
	return nil
}

// checkStages says whether an earlier agent's stages are all there: without its pin, a
// stage has ended, and what would be its packets are drops.
func checkStages(prefix string) error {
	for _, name := range stagePrograms {
		stage, err := ebpf.LoadPinnedProgram(pin.Name(prefix, name), nil)
		if err != nil {
			return fmt.Errorf("open the pinned program %s: %w; `lbagent unload` removes what is left of an earlier agent",
				pin.Name(prefix, name), err)
		}
		if err := stage.Close(); err != nil {
			return err
		}
	}
	return nil
}

// newTableKeeper keeps the Maglev tables by pins under the prefix. An agent that is
// killed between a table's pin and its entry leaves a pin that nobody looks for;
// it takes the room of a table until the machine restarts.
func newTableKeeper(maps *Maps, prefix string) *tableKeeper {
	return &tableKeeper{
		current: func(slot uint32) (ebpf.MapID, error) { return tableID(maps.maps.Maglev, slot) },
		pin:     func(table *ebpf.Map, name string) error { return table.Pin(pin.Name(prefix, name)) },
		unpin:   func(name string) error { return pin.RemoveMap(pin.Name(prefix, name)) },
	}
}

// tableID is the id of a slot's table, 0 if there is none.
func tableID(tables *ebpf.Map, slot uint32) (ebpf.MapID, error) {
	var inner *ebpf.Map
	err := tables.Lookup(slot, &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read slot %d of the map maglev: %w", slot, err)
	}
	defer inner.Close()
	return mapID(inner)
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
func Unload(prefix string) error {
	tables, err := tablePins(prefix)
	names := append([]string{stagesMap}, mapNames...)
	return errors.Join(err, pin.RemoveAll(prefix, linkPin, stagePrograms[:], append(names, tables...)))
}

// tablePins names the pins of the tables that the pinned map of them has.
func tablePins(prefix string) (names []string, err error) {
	tables, err := ebpf.LoadPinnedMap(pin.Name(prefix, bpf.LBMapMaglev), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned map %s: %w", bpf.LBMapMaglev, err)
	}
	defer tables.Close()
	var slots []uint32
	var slot uint32
	for err = tables.NextKey(nil, &slot); err == nil; err = tables.NextKey(slot, &slot) {
		slots = append(slots, slot)
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read the keys of the map %s: %w", bpf.LBMapMaglev, err)
	}
	for _, slot := range slots {
		id, err := tableID(tables, slot)
		if err != nil {
			return names, err
		}
		names = append(names, tablePin(slot, id))
	}
	return names, nil
}
