// Package datapath is the agent's door to eBPF: it loads the balancer's
// program, attaches it to an interface, pins what must outlive the agent, and
// gives typed access to the maps. Load returns a Datapath; which system it runs
// on shows in no type, only in the files' names.
//
// Maps, and the program on its interface, are pinned: when the agent ends,
// traffic flows on, and the next agent takes them over with everything in them.
// On Linux the new agent's program replaces the old one in the same attachment,
// without a packet in between that no program sees.
package datapath

import (
	"errors"
	"fmt"

	"l4lab/agent/pin"
)

// Errors that a caller may handle.
var (
	// ErrUnsupported: the kernel, or the interface's driver, lacks something.
	ErrUnsupported = pin.ErrUnsupported
	// ErrPermission: the process may not do it.
	ErrPermission = pin.ErrPermission
	// ErrForeignProgram: somebody else's XDP program is on the interface.
	ErrForeignProgram = pin.ErrForeignProgram
	// ErrOtherLayout: pinned maps were made by a version with other structs or sizes.
	ErrOtherLayout = errors.New("pinned map has another layout")
	// ErrFull: a map has no room for one more entry.
	ErrFull = errors.New("no room")
	// ErrInUse: another agent holds the pins.
	ErrInUse = errors.New("another agent uses the pins")
)

// Options say what to load and where to attach it.
type Options struct {
	// Interface and Index name the network interface of the VIPs' packets.
	Interface string
	Index     int
	// PinDir holds the pins. Linux: a directory on a bpffs, made when missing.
	// Windows: a prefix of the pins' names.
	PinDir string
	// Image is the native image (.sys) to load. Windows only.
	Image string
	// Profile says what provides the XDP hook. Windows only.
	Profile Profile
	// Generic permits XDP's generic mode, which every driver has and which is slow. Linux only.
	Generic bool
	// Sizes of the maps to make; those that are pinned keep theirs unless another
	// one is asked for, which is refused. Linux only: Windows' are fixed in the image.
	Sizes Sizes
	// Requirements are checked before anything is loaded; nil means Requirements().
	Requirements []Requirement
	// Step, if not nil, is told what has been done, in words for people.
	Step func(string)
}

// Sizes are how many entries maps have; 0 is the default.
type Sizes struct {
	// Connections are IPv4's established flows; IPv6 has a quarter of it, and new
	// flows of each family, which have had one packet, a quarter of the established.
	Connections uint32
	Services    uint32
	// Backends are of all services together.
	Backends uint32
	// Sources are the allowed ranges of all services together.
	Sources uint32
}

// Profile names a set of Windows components (see datapath_windows.go).
type Profile string

// The two ways in which Windows offers an XDP hook.
const (
	// ProfileEFW021 is eBPF for Windows 0.21 with its hook XDP_TEST: both modes work.
	ProfileEFW021 Profile = "efw-0.21"
	// ProfileXDP is eBPF for Windows 1.0 or newer with XDP for Windows, whose
	// bpf_xdp_adjust_head always fails: no IP-in-IP, so SNAT only.
	ProfileXDP Profile = "xdp"
)

// Datapath is the program, loaded and perhaps attached, and its maps.
type Datapath interface {
	// Maps returns the maps; they are valid until Close.
	Maps() *Maps
	// TookOver says that the maps were pinned by an earlier agent.
	TookOver() bool
	// Attach puts the program on the interface, in place of an earlier
	// agent's, and pins the attachment.
	Attach() error
	// Attachment asks the system what is attached now.
	Attachment() (Attachment, error)
	// Close lets go of everything; what is pinned goes on working.
	Close() error
	// Unload detaches the program, removes the pins, and closes.
	Unload() error
}

// Attachment is the program on its interface.
type Attachment struct {
	// ProgramID is the kernel's number of the program, 0 when none is attached.
	ProgramID uint32
	// Mode is "native" or "generic".
	Mode string
}

// Requirement is something that the system must have.
type Requirement struct {
	// Name says what, Since from which release on.
	Name, Since string
	// Probe returns nil when the system has it. What it returns else is
	// matched with ErrPermission; anything but that means that it is missing.
	Probe func() error
}

// checkRequirements runs the probes and reports everything that is missing at once.
func checkRequirements(requirements []Requirement) error {
	var faults []error
	for _, r := range requirements {
		err := r.Probe()
		switch {
		case err == nil:
		case isPermission(err):
			return fmt.Errorf("probe for %s: %w: %w", r.Name, ErrPermission, err)
		default:
			faults = append(faults, fmt.Errorf("%s (%s): %w", r.Name, r.Since, err))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: this system lacks %w", ErrUnsupported, errors.Join(faults...))
}

func (o *Options) step(format string, args ...any) {
	if o.Step != nil {
		o.Step(fmt.Sprintf(format, args...))
	}
}
