package winvm

import "fmt"

// FaultKind says what a program did wrong.
type FaultKind int

// The kinds of [Fault].
const (
	// NullPointer: an access near address 0, mostly a lookup's result that was not checked.
	NullPointer FaultKind = iota + 1
	// OutOfBounds: an access that starts in memory of the program and leaves it.
	OutOfBounds
	// NotAPointer: an access to an address that belongs to nothing.
	NotAPointer
	// ReadOnly: a store to the context's packet pointers.
	ReadOnly
	// StalePacket: an access through a packet pointer from before bpf_xdp_adjust_head.
	StalePacket
	// UninitializedStack: a read of stack bytes that this call did not write.
	UninitializedStack
	// UninitializedRegister: a read of a register that was never written, or lost
	// its value in a call.
	UninitializedRegister
	// UnknownHelper: a call of a helper that this profile has not.
	UnknownHelper
	// BadArgument: a helper's argument of which Windows' behaviour is undefined.
	BadArgument
	// CallDepth: more than eight frames of program-local calls.
	CallDepth
	// BudgetExceeded: more instructions than [Options].Budget.
	BudgetExceeded
	// MissingExit: control ran off the end of a function.
	MissingExit
)

func (k FaultKind) String() string {
	names := [...]string{
		NullPointer: "null pointer", OutOfBounds: "out of bounds", NotAPointer: "not a pointer",
		ReadOnly: "read-only", StalePacket: "stale packet pointer", UninitializedStack: "uninitialized stack",
		UninitializedRegister: "uninitialized register", UnknownHelper: "unknown helper", BadArgument: "bad argument",
		CallDepth: "call depth", BudgetExceeded: "budget exceeded", MissingExit: "missing exit",
	}
	if k < 1 || int(k) >= len(names) {
		return fmt.Sprintf("fault %d", int(k))
	}
	return names[k]
}

// Fault is the error of [Machine.Run] for a program that did what no program may.
type Fault struct {
	Kind FaultKind
	// Function is the program, or the function that it called, and PC the
	// instruction's number in it as llvm-objdump counts: in slots of 8 bytes from
	// the function's start.
	Function string
	PC       int
	// Instruction is disassembled, in llvm-objdump's syntax.
	Instruction string
	Reason      string
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s+%d: %s: %s: %s", f.Function, f.PC, f.Instruction, f.Kind, f.Reason)
}

// faultf makes a fault whose place is filled in by the interpreter's loop.
func faultf(kind FaultKind, format string, args ...any) *Fault {
	return &Fault{Kind: kind, Reason: fmt.Sprintf(format, args...)}
}
