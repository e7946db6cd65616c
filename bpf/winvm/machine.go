package winvm

import (
	"fmt"
	"slices"
)

// Action is what an XDP program returns. The numbers are Windows'
// (net_ebpf_ext_xdp_hooks.h, xdp/ebpfhook.h); on Linux 1 is to drop and 2 to pass.
type Action uint32

// The actions of Windows.
const (
	Pass Action = 1
	Drop Action = 2
	TX   Action = 3
)

func (a Action) String() string {
	switch a {
	case Pass:
		return "pass"
	case Drop:
		return "drop"
	case TX:
		return "tx"
	}
	return fmt.Sprintf("action %d", uint32(a))
}

// Verdict is what becomes of the frame: an action that Windows does not know drops
// it (net_ebpf_ext_layer_2_classify of net_ebpf_ext_xdp.c).
func (a Action) Verdict() Action {
	if a == Pass || a == TX {
		return a
	}
	return Drop
}

// Machine is a loaded object: programs, maps, and the memory that they see.
type Machine struct {
	options   Options
	code      []instruction
	functions []function
	programs  []*Program
	maps      []*Map
	regions   []region
	memory    uint64 // of maps

	registers [16]uint64 // 11 are used; 16 spare the compiler a bounds check
	frames    [maxFrames]callFrame
	depth     int
	context   [contextSize]byte
	packet    packet
	cpu       int
	running   bool
	retiring  []interface{ release() }
}

// function is a piece of Machine.code with a name.
type function struct {
	name  string
	first int // in Machine.code
	slots []int32
}

// Program is an entry point of a machine.
type Program struct {
	machine *Machine
	name    string
	section string
	entry   int
}

// Name returns the program's C name.
func (p *Program) Name() string { return p.name }

// Section returns the ELF section that the program is in, which on Windows says
// to which hook it goes.
func (p *Program) Section() string { return p.section }

// Result is what a run left.
type Result struct {
	Action Action
	// Frame is the frame as the program left it. It is the machine's memory: the
	// next run overwrites it.
	Frame []byte
	// Instructions and TailCalls count what was executed.
	Instructions int
	TailCalls    int
}

func newMachine(options Options) (*Machine, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	m := &Machine{options: options, regions: make([]region, regionMaps)}
	m.regions[regionContext] = plain(kindContext, readAccess, m.context[:])
	for i := range m.frames {
		stack := plain(kindStack, readAccess|writeAccess, make([]byte, stackSize))
		stack.written = make([]byte, stackSize)
		m.regions[regionStack+i] = stack
	}
	m.packet.room = options.Headroom
	return m, nil
}

// Programs returns the programs in the order of the object.
func (m *Machine) Programs() []*Program { return slices.Clone(m.programs) }

// Maps returns the maps in the order of the object, without those that
// [Map.NewInner] made.
func (m *Machine) Maps() []*Map {
	var named []*Map
	for _, mp := range m.maps {
		if !mp.made {
			named = append(named, mp)
		}
	}
	return named
}

// Program finds a program by its C name.
func (m *Machine) Program(name string) (*Program, error) {
	var known []string
	for _, p := range m.programs {
		if p.name == name {
			return p, nil
		}
		known = append(known, p.name)
	}
	return nil, fmt.Errorf("winvm: no program %q among %q", name, known)
}

// Map finds a map by its C name.
func (m *Machine) Map(name string) (*Map, error) {
	var known []string
	for _, mp := range m.Maps() {
		if mp.name == name {
			return mp, nil
		}
		known = append(known, mp.name)
	}
	return nil, fmt.Errorf("winvm: no map %q among %q", name, known)
}

// SetCPU chooses the processor on which programs run, from 0.
func (m *Machine) SetCPU(cpu int) error {
	if cpu < 0 || cpu >= m.options.CPUs {
		return fmt.Errorf("winvm: no processor %d among %d", cpu, m.options.CPUs)
	}
	m.cpu = cpu
	return nil
}

// Run gives a frame to a program. The frame is copied. When the error is a [*Fault],
// the result holds what was done until then.
func (m *Machine) Run(program *Program, frame []byte) (Result, error) {
	if program == nil || program.machine != m {
		return Result{}, fmt.Errorf("winvm: the program is not of this machine")
	}
	if len(frame) == 0 || len(frame) > maxFrame {
		return Result{}, fmt.Errorf("winvm: a frame of %d bytes; 1 to %d can be run", len(frame), maxFrame)
	}
	if m.running {
		return Result{}, fmt.Errorf("winvm: the machine is running")
	}
	m.running = true
	m.receive(frame)
	result, fault := m.execute(program)
	m.running = false
	for _, r := range m.retiring {
		r.release()
	}
	m.retiring = m.retiring[:0]
	result.Frame = m.packet.frame()
	m.deliver()
	if fault != nil {
		return result, fault
	}
	return result, nil
}

// deliver empties the rings into the sink.
func (m *Machine) deliver() {
	if m.options.Events == nil {
		return
	}
	for _, mp := range m.maps {
		for cpu, r := range mp.rings {
			for record, ok := r.next(); ok; record, ok = r.next() {
				m.options.Events(mp, cpu, record)
			}
		}
	}
}
