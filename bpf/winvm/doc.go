// Package winvm runs the Windows programs of package bpf without Windows: an
// eBPF interpreter with the application binary interface of eBPF for Windows
// (efW), for tests and for the curious. [Load] takes an ELF object as it ships
// and links it; nothing is recompiled and nothing of it is skipped:
//
//	m, err := winvm.Load(bpf.WindowsObjects()["decap_xdp.o"], winvm.Options{})
//	program, err := m.Program("decap_xdp")
//	config, err := m.Map("decap_config")
//	err = config.Update(key, value, winvm.Any)
//	result, err := m.Run(program, frame)
//
// The result holds the action and the frame as the program left it. An error
// that is a [*Fault] says at which instruction the program did what PREVAIL, the
// verifier of efW, exists to rule out: every load, store and helper argument is
// checked against the memory that the program may touch (context, frame, its
// stack frames, map values), bytes of the stack and registers that were never
// written may not be read, and packet pointers are void once bpf_xdp_adjust_head
// moved the frame.
//
// This simulates an ABI, not Windows. The instructions are those of RFC 9669;
// helper numbers, map types and their semantics, return codes, the context's
// layout and the actions are read from efW's source, release 0.21.1, and the comments
// name the file. Profile [XDP] differs in bpf_xdp_adjust_head, read from XDP for
// Windows, and in what efW 1.0 mended of arrays of objects; nothing else of efW 1.x
// was compared. What is not here: PREVAIL's judgement of paths that no frame takes, the
// concurrency of processors, NDIS, and timing. A program that runs here
// need not be one that efW loads; one that faults here must not be shipped.
//
// A [Machine] and its maps serve one goroutine at a time.
package winvm
