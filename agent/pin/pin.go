// Package pin has what the balancer's data path and a backend's decapsulation
// do alike with eBPF objects that outlive the process. Which objects there are,
// and under what names, is their business.
//
// On Linux pins are files in a directory on a bpffs: Open makes and locks the
// directory, Link and RemoveLink handle a pinned attachment, and AttachXDP,
// ExplainXDP, IsGeneric and ModeName one at XDP. On Windows pins are names: Name
// and RemoveAll. Errors do not say which interface it was about; callers know.
package pin

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// sentinel is an error that callers tell apart, with the exit code it asks for.
type sentinel struct {
	message string
	code    int
}

func (s *sentinel) Error() string { return s.message }

// ExitCode is the process's exit code when this error ends it.
func (s *sentinel) ExitCode() int { return s.code }

// Errors that callers tell apart.
var (
	// ErrUnsupported: the kernel, the driver or the file system lacks something.
	// It asks for exit code 3.
	ErrUnsupported error = &sentinel{"not supported here", 3}
	// ErrPermission: root, or CAP_BPF and CAP_NET_ADMIN, are missing. It asks for exit code 3.
	ErrPermission error = &sentinel{"needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", 3}
	// ErrUsage: the option --pin-dir names no place where a directory could be
	// made. It asks for exit code 2.
	ErrUsage error = &sentinel{"--pin-dir", 2}
	// ErrForeignProgram: somebody else's XDP program is on the interface.
	ErrForeignProgram = errors.New("another XDP program is attached")
)

// Explain gives the kernel's answers the sentinel that fits them; nil stays nil.
func Explain(err error) error {
	var rejected *ebpf.VerifierError
	switch {
	case err == nil, errors.Is(err, ErrPermission), errors.Is(err, ErrUnsupported):
		return err
	case errors.As(err, &rejected):
		return err // its EACCES means the program, not us
	case errors.Is(err, fs.ErrPermission): // EPERM and EACCES
		return fmt.Errorf("%w: %w", ErrPermission, err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}

// Link opens a pinned attachment, nil when there is none.
func Link(path string) (link.Link, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned attachment %s: %w", path, Explain(err))
	}
	return l, nil
}
