package hyperv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

// recordFile keeps, in the lab's folder, on which host the lab is: down works
// from it when the state is damaged. It holds no secret, as the topology holds none.
const recordFile = "hyperv.json"

func writeRecord(lab provider.Lab, h topology.HyperV) error {
	data, err := json.MarshalIndent(h, "", "  ")
	if err == nil {
		err = state.WriteFile(filepath.Join(lab.Dir, recordFile), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember the Hyper-V host: %w", err)
	}
	return nil
}

// readRecord returns ErrNoHost when there is none.
func readRecord(lab provider.Lab) (topology.HyperV, error) {
	var h topology.HyperV
	data, err := os.ReadFile(filepath.Join(lab.Dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return h, ErrNoHost
	}
	if err == nil {
		err = json.Unmarshal(data, &h)
	}
	if err != nil {
		return h, fmt.Errorf("read which Hyper-V host lab %s is on (%s): %w; what it has there bears the mark %q",
			lab.Topology.Name, filepath.Join(lab.Dir, recordFile), err, markOf(lab))
	}
	return h, nil
}

// fromTopology finds the host that the topology names, or else the one on record.
func fromTopology(_ context.Context, lab provider.Lab, _ bool) (Target, error) {
	if h := lab.Topology.Providers.HyperV; h != nil {
		return Target{HyperV: *h}, nil
	}
	h, err := readRecord(lab)
	return Target{HyperV: h}, err
}
