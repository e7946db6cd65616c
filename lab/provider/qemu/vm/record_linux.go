package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"l4lab/lab/provider/fabric"
	"l4lab/lab/state"
)

func recordFile(dir string) string  { return filepath.Join(dir, "vm.json") }
func socketFile(dir string) string  { return filepath.Join(dir, "qmp.sock") }
func logFile(dir string) string     { return filepath.Join(dir, "qemu.log") }
func efivarsFile(dir string) string { return filepath.Join(dir, "efivars.fd") }

// record is what is written down of a machine.
type record struct {
	Name string `json:"name"`
	// QEMU is the machine's process, Keeper the one that keeps its console.
	QEMU   fabric.Process `json:"qemu"`
	Keeper fabric.Process `json:"keeper"`
	// Writable are the places in Config.Disks of those that the guest writes to.
	Writable []int `json:"writable"`
}

func (r record) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = state.WriteFile(recordFile(dir), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the machine down: %w", err)
	}
	return nil
}

// Open returns the machine of a folder, which may have ended meanwhile;
// fs.ErrNotExist when none is recorded.
func Open(dir string) (*VM, error) {
	data, err := os.ReadFile(recordFile(dir))
	if err != nil {
		return nil, err
	}
	v := &VM{dir: dir}
	if err := json.Unmarshal(data, &v.record); err != nil {
		return nil, fmt.Errorf("read %s: %w", recordFile(dir), err)
	}
	return v, nil
}
