package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"l4lab/bpf"
)

// program is the Datapath of Linux.
type program struct {
	options Options
	pins    *pinDir
	maps    *Maps
	program *ebpf.Program
	// stages are the programs behind it. A map of programs empties itself when
	// nobody has it open or pinned, so Attach pins it before it attaches.
	stages *ebpf.Map
	// tookOver: the maps were there.
	tookOver bool
}

var _ Datapath = (*program)(nil)

// Load verifies and loads the embedded program with the maps that are pinned
// in options.PinDir, or with new ones. Nothing is attached yet. An interface
// that Attach could not take, because the pins are another one's or somebody
// else's program is on it, is refused here, before a caller writes to the maps.
// When Load fails, pinned maps and the attached program are untouched, and the maps
// that it made are gone, with a pin directory that is then empty.
func Load(options Options) (Datapath, error) {
	if options.Requirements == nil {
		options.Requirements = Requirements()
	}
	if err := checkRequirements(options.Requirements); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadLB()
	if err != nil {
		return nil, fmt.Errorf("read the embedded program: %w", err)
	}
	pins, err := openPinDir(options.PinDir)
	if err != nil {
		return nil, err
	}
	p := &program{options: options, pins: pins}
	err = p.checkAttachable()
	if err == nil {
		err = p.load(spec)
	}
	if err != nil {
		return nil, errors.Join(err, pins.removeIfEmpty(), pins.close())
	}
	return p, nil
}

func (p *program) load(spec *ebpf.CollectionSpec) error {
	byName, created, err := p.openMaps(spec)
	if err != nil {
		return err
	}
	undo := func(err error) error {
		for _, m := range created {
			err = errors.Join(err, m.Unpin())
		}
		return errors.Join(err, closeMaps(byName))
	}
	p.tookOver = len(created) < len(byName)
	p.options.step("maps: %d created, %d taken over in %s", len(created), len(byName)-len(created), p.pins.path)

	maps, err := newMaps(byName, *spec.Maps[bpf.LBMapMaglev].InnerMap, 0)
	if err != nil {
		return undo(err)
	}
	if p.program, p.stages, err = loadPrograms(spec, byName); err != nil {
		return undo(err)
	}
	maps.counted.maybeAll = p.tookOver
	p.maps = maps
	id, _ := programID(p.program)
	p.options.step("program %s: verified and loaded, id %d", bpf.LBProgLb, id)
	return nil
}

// openMaps opens the pinned maps and creates those that are missing, which are
// returned in created as well.
func (p *program) openMaps(spec *ebpf.CollectionSpec) (byName map[string]*ebpf.Map, created []*ebpf.Map, err error) {
	byName = make(map[string]*ebpf.Map, len(mapNames))
	defer func() {
		if err == nil {
			return
		}
		for _, m := range created {
			err = errors.Join(err, m.Unpin())
		}
		err = errors.Join(err, closeMaps(byName))
	}()
	var mu sync.Mutex
	var group errgroup.Group
	for _, name := range mapNames {
		mapSpec, ok := spec.Maps[name]
		if !ok {
			err = fmt.Errorf("the embedded object has no map %q", name)
			break
		}
		// Side by side: the kernel takes its time to lay out the large ones.
		group.Go(func() error {
			m, isNew, err := p.openMap(name, mapSpec)
			if m == nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			byName[name] = m
			if isNew {
				created = append(created, m)
			}
			return err
		})
	}
	return byName, created, errors.Join(err, group.Wait())
}

// openMap opens a pinned map, or creates it and pins it; with an error the map may be there.
func (p *program) openMap(name string, spec *ebpf.MapSpec) (m *ebpf.Map, isNew bool, err error) {
	spec.Pinning = ebpf.PinByName
	if err := p.resize(name, spec); err != nil {
		return nil, false, err
	}
	_, statErr := os.Lstat(filepath.Join(p.pins.path, name))
	isNew = errors.Is(statErr, os.ErrNotExist)
	m, err = ebpf.NewMapWithOptions(spec, ebpf.MapOptions{PinPath: p.pins.path})
	switch {
	case errors.Is(err, ebpf.ErrMapIncompatible):
		return nil, false, p.otherLayout(name, err)
	case isPermission(err):
		return nil, false, fmt.Errorf("create map %s: %w: %w", name, ErrPermission, err)
	case err != nil:
		return nil, false, fmt.Errorf("create map %s (%s of %d entries), pinned in %s: %w",
			name, spec.Type, spec.MaxEntries, p.pins.path, err)
	}
	if isNew {
		return m, true, nil
	}
	if err := sameLayout(m, spec); err != nil {
		return m, false, p.otherLayout(name, err)
	}
	return m, false, nil
}

func (p *program) otherLayout(name string, err error) error {
	return fmt.Errorf("map %s in %s: %w: %w; run `lbagent unload` first, which ends its connections",
		name, p.pins.path, ErrOtherLayout, err)
}

func (p *program) Maps() *Maps    { return p.maps }
func (p *program) TookOver() bool { return p.tookOver }

func (p *program) Close() error {
	return errors.Join(p.program.Close(), p.stages.Close(), p.maps.close(), p.pins.close())
}

// Unload detaches before it removes, so that no packet meets a program without maps.
func (p *program) Unload() error {
	err := p.pins.unload()
	return errors.Join(err, p.program.Close(), p.stages.Close(), p.maps.close(), p.pins.close())
}

// Unload does for the pins of an agent that no longer runs what
// Datapath.Unload does. It is fine when there are none.
func Unload(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	pins, err := openPinDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(pins.unload(), pins.close())
}

func closeMaps(byName map[string]*ebpf.Map) error {
	var faults []error
	for _, m := range byName {
		faults = append(faults, m.Close())
	}
	return errors.Join(faults...)
}

// explainLoad makes the verifier's verdict readable: the error's text has the end of
// its log, %+v all of it.
func explainLoad(err error) error {
	if isPermission(err) {
		// Without CAP_PERFMON the verifier lets no pointers be subtracted (allow_ptr_leaks).
		var verdict *ebpf.VerifierError
		if !errors.As(err, &verdict) || strings.Contains(err.Error(), "pointer prohibited") {
			return fmt.Errorf("load the program: %w: %w", ErrPermission, err)
		}
	}
	return fmt.Errorf("load the program: %w", err)
}

func programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("read the program's info: %w", err)
	}
	id, _ := info.ID()
	return id, nil
}
