package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"l4lab/bpf"
)

// loadPrograms has the kernel verify the programs, side by side, and enters into a new
// map the ones that tail calls reach; what it returns is the one to attach, and that
// map. A program needs nothing of another one to be verified, and the kernel takes several
// at a time from who has CAP_BPF (bpf_check locks only for others).
func loadPrograms(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) (lb *ebpf.Program, stages *ebpf.Map, err error) {
	stagesSpec := spec.Maps[stagesMap]
	if stagesSpec == nil || spec.Programs[bpf.LBProgLb] == nil {
		return nil, nil, fmt.Errorf("the object has no program %q or no map %q", bpf.LBProgLb, stagesMap)
	}
	entries := stagesSpec.Contents
	stagesSpec.Contents = nil // they are names still
	stages, err = ebpf.NewMap(stagesSpec)
	if err != nil {
		return nil, nil, fmt.Errorf("create map %s: %w", stagesMap, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stages.Close(), lb.Close())
			lb, stages = nil, nil
		}
	}()
	var group errgroup.Group
	group.Go(func() (err error) {
		lb, err = loadProgram(spec.Programs[bpf.LBProgLb], stages, maps)
		return err
	})
	for _, entry := range entries {
		group.Go(func() error {
			name, _ := entry.Value.(string)
			stage, err := loadProgram(spec.Programs[name], stages, maps)
			if err != nil {
				return err
			}
			defer stage.Close() // the map holds it
			if err := stages.Put(entry.Key, stage); err != nil {
				return fmt.Errorf("enter program %s as stage %v: %w", name, entry.Key, err)
			}
			return nil
		})
	}
	return lb, stages, group.Wait()
}

func loadProgram(spec *ebpf.ProgramSpec, stages *ebpf.Map, maps map[string]*ebpf.Map) (*ebpf.Program, error) {
	if spec == nil {
		return nil, errors.New("the object lacks a program of its stages")
	}
	for i := range spec.Instructions {
		ins := &spec.Instructions[i]
		name := ins.Reference()
		if !ins.IsLoadFromMap() || name == "" {
			continue
		}
		m := maps[name]
		if name == stagesMap {
			m = stages
		}
		if m == nil {
			return nil, fmt.Errorf("program %s uses a map %q, which is not there", spec.Name, name)
		}
		if err := ins.AssociateMap(m); err != nil {
			return nil, fmt.Errorf("program %s: map %s: %w", spec.Name, name, err)
		}
	}
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		return nil, explainLoad(fmt.Errorf("program %s: %w", spec.Name, err))
	}
	return p, nil
}
