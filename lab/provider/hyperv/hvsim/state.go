package hvsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/state"
)

// memory is what a host remembers over a restart. Files are not in it: the
// drives below Dir hold them, disks among them.
type memory struct {
	Version  int         `json:"version"`
	Switches []*vswitch  `json:"switches"`
	Machines []*machine  `json:"machines"`
	Proxies  []portProxy `json:"portProxies"`
	// NextIndex is the interface index that the next switch's adapter gets.
	NextIndex int `json:"nextIndex"`
	// WinRM and SSH are the ports that the host had.
	WinRM int `json:"winrmPort"`
	SSH   int `json:"sshPort"`
}

// memoryVersion is what this program writes and reads.
const memoryVersion = 1

// vswitch is a virtual switch with the host's own adapter on it. Hyper-V does
// not want its name to be unique; its ID is.
type vswitch struct {
	Name           string   `json:"name"`
	ID             string   `json:"id"`
	Notes          string   `json:"notes"`
	Type           string   `json:"type"`
	InterfaceIndex int      `json:"interfaceIndex"`
	MAC            string   `json:"mac"` // "00-15-5D-…"
	MTU            int      `json:"mtu"`
	Addresses      []string `json:"addresses"`
	// Routes are in the active store alone: a restart forgets them.
	Routes []scripts.HostRoute `json:"-"`
}

// machine is a virtual machine.
type machine struct {
	Name  string `json:"name"`
	ID    string `json:"id"`
	Notes string `json:"notes"`
	// Path is the folder that it was made in, "" for one that nobody made.
	Path       string `json:"path"`
	Generation int    `json:"generation"`
	MemoryMB   int64  `json:"memoryMB"`
	Processors int    `json:"processors"`
	// Disk is the file that the machine writes to: an .avhdx once it has a
	// checkpoint. Base is what it was made with, Files are all files of its own
	// (Base and every .avhdx).
	Disk  string   `json:"disk"`
	Base  string   `json:"base"`
	Files []string `json:"files"`
	DVD   string   `json:"dvd"`
	// SwitchID is "" for an adapter that is not connected.
	SwitchID    string        `json:"switchID"`
	MAC         string        `json:"mac"` // "00155D010101"
	Spoofing    bool          `json:"spoofing"`
	SecureBoot  string        `json:"secureBoot"`
	Checkpoints []*checkpoint `json:"checkpoints"`

	// power is how the machine is; a restart of the host turns all off.
	power power
}

// checkpoint is a moment of a machine that can be had back.
type checkpoint struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	// Disk is the file that was written to until then and is only read now.
	Disk string `json:"disk"`
}

// power is how a machine is.
type power struct {
	on, stopping bool
	since        time.Time
	// starts counts how often it was turned on since the host started.
	starts int
	// hung is a machine that is on without its guest (a fault).
	hung bool
}

// portProxy is one row of netsh's table.
type portProxy struct {
	ListenAddress  string `json:"listenAddress"`
	ListenPort     int    `json:"listenPort"`
	ConnectAddress string `json:"connectAddress"`
	ConnectPort    int    `json:"connectPort"`
}

// newID returns an identifier as .NET prints a Guid.
func newID() string { return uuid.NewString() }

// store keeps the memory in a file. Its lock guards the memory, never a call
// into Guests that may take long.
type store struct {
	sync.Mutex
	memory
	path string
}

// openStore reads what an earlier host left, if one did.
func openStore(dir string) (*store, error) {
	s := &store{path: filepath.Join(dir, "host.json"), memory: memory{Version: memoryVersion, NextIndex: 20}}
	text, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the simulated host's state: %w", err)
	}
	if err := json.Unmarshal(text, &s.memory); err != nil {
		return nil, fmt.Errorf("read the simulated host's state from %s: %w; remove the folder to start with a new host", s.path, err)
	}
	if s.Version != memoryVersion {
		return nil, fmt.Errorf("%s is of version %d, and this program reads version %d; remove the folder to start with a new host", s.path, s.Version, memoryVersion)
	}
	return s, nil
}

// save writes the memory; the caller holds the lock.
func (s *store) save() error {
	text, err := json.MarshalIndent(s.memory, "", "  ")
	if err != nil {
		return fmt.Errorf("write the simulated host's state: %w", err)
	}
	if err := state.WriteFile(s.path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the simulated host's state: %w", err)
	}
	return nil
}

// switchesNamed returns the switches of a name; Windows does not tell A from a.
func (m *memory) switchesNamed(name string) []*vswitch {
	var found []*vswitch
	for _, s := range m.Switches {
		if strings.EqualFold(s.Name, name) {
			found = append(found, s)
		}
	}
	return found
}

func (m *memory) switchByID(id string) *vswitch {
	i := slices.IndexFunc(m.Switches, func(s *vswitch) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return m.Switches[i]
}

// machinesNamed returns the machines of a name, which need not be unique.
func (m *memory) machinesNamed(name string) []*machine {
	var found []*machine
	for _, vm := range m.Machines {
		if strings.EqualFold(vm.Name, name) {
			found = append(found, vm)
		}
	}
	return found
}

// ours says whether a switch bears the mark.
func (s *vswitch) ours(mark string) bool { return mark != "" && strings.TrimSpace(s.Notes) == mark }

// ours says whether a machine bears the mark, which its node's name follows.
func (vm *machine) ours(mark string) bool {
	return mark != "" && strings.HasPrefix(vm.Notes, mark+" node=")
}

// unfinished says whether a machine lies in the lab's folder and has no notes
// yet: one whose making was cut off between New-VM and Set-VM.
func (vm *machine) unfinished(folder string) bool {
	return strings.TrimSpace(vm.Notes) == "" && vm.Path != "" && within(vm.Path, folder)
}

// nodeOf returns the node's name from a machine's notes.
func nodeOf(notes string) string {
	_, node, _ := strings.Cut(notes, " node=")
	return node
}
