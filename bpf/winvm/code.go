package winvm

import "fmt"

// Code is an ebpf_result_t of efW (include/ebpf_result.h): the error of a map
// operation. A helper returns it to a program as its negative, so that where
// Linux has -ENOENT (-2) Windows has -[KeyNotFound] (-19).
type Code int

// The codes that maps and tail calls return.
const (
	InvalidFD             Code = 4
	InvalidObject         Code = 5
	InvalidArgument       Code = 6
	ObjectNotFound        Code = 7
	ObjectAlreadyExists   Code = 8
	NoMemory              Code = 12
	OperationNotSupported Code = 18
	KeyNotFound           Code = 19
	NoMoreKeys            Code = 25
	NoMoreTailCalls       Code = 27
	OutOfSpace            Code = 29

	success Code = 0
)

func (c Code) Error() string {
	switch c {
	case InvalidFD:
		return "EBPF_INVALID_FD"
	case InvalidObject:
		return "EBPF_INVALID_OBJECT"
	case InvalidArgument:
		return "EBPF_INVALID_ARGUMENT"
	case ObjectNotFound:
		return "EBPF_OBJECT_NOT_FOUND"
	case ObjectAlreadyExists:
		return "EBPF_OBJECT_ALREADY_EXISTS"
	case NoMemory:
		return "EBPF_NO_MEMORY"
	case OperationNotSupported:
		return "EBPF_OPERATION_NOT_SUPPORTED"
	case KeyNotFound:
		return "EBPF_KEY_NOT_FOUND"
	case NoMoreKeys:
		return "EBPF_NO_MORE_KEYS"
	case NoMoreTailCalls:
		return "EBPF_NO_MORE_TAIL_CALLS"
	case OutOfSpace:
		return "EBPF_OUT_OF_SPACE"
	}
	return fmt.Sprintf("ebpf_result_t %d", int(c))
}

// returned64 is what a helper that returns int64_t leaves in r0.
func (c Code) returned64() uint64 { return uint64(-int64(c)) }

// returned32 is what a helper that returns int leaves in r0. Such a function
// sets EAX, which on x64 clears the upper half of RAX, and bpf2c takes all of RAX
// (include/bpf2c.h: helper_function_t returns uint64_t): a program that takes
// the result for a long sees a positive number, never a negative one.
func returned32(value int32) uint64 { return uint64(uint32(value)) }
