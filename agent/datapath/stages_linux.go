package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// stagesPrefix begins the pins of the programs behind an attached one; its id
// follows. An agent may die while two of them are there: both stay until the next
// one has attached its own, for either may be what packets meet.
const stagesPrefix = stagesMap + "_"

func (p *program) stagesPath() (string, error) {
	id, err := programID(p.program)
	return filepath.Join(p.pins.path, fmt.Sprintf("%s%d", stagesPrefix, id)), err
}

// pinStages keeps the stages of the program that is about to be attached, beside
// those of the one that is.
func (p *program) pinStages() error {
	path, err := p.stagesPath()
	if err != nil {
		return err
	}
	return explain("pin the stages", p.stages.Pin(path))
}

// unpinStages undoes pinStages.
func (p *program) unpinStages() error { return explain("unpin the stages", p.stages.Unpin()) }

// removeOtherStages ends the programs of earlier agents, once none is attached.
func (p *program) removeOtherStages() error {
	own, err := p.stagesPath()
	if err != nil {
		return err
	}
	return p.pins.removeStages(filepath.Base(own))
}

// removeStages removes all pins of stages but one.
func (d *pinDir) removeStages(keep string) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("read the pin directory: %w", err)
	}
	var faults []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stagesPrefix) && e.Name() != keep {
			faults = append(faults, explain("remove the pin", os.Remove(filepath.Join(d.path, e.Name()))))
		}
	}
	return errors.Join(faults...)
}
