package pin

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AttachXDP attaches a program to the interface of an index, in native mode or
// in the generic one, which every driver has and which is slow. Its error is the
// kernel's: see ExplainXDP.
func AttachXDP(program *ebpf.Program, index int, generic bool) (link.Link, error) {
	mode := link.XDPDriverMode
	if generic {
		mode = link.XDPGenericMode
	}
	return link.AttachXDP(link.XDPOptions{Program: program, Interface: index, Flags: mode})
}

// ExplainXDP says what the kernel's refusal of an XDP program means and what
// to do, given the mode that was asked for and the interface's MTU.
func ExplainXDP(err error, generic bool, mtu int) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP) && !generic:
		return fmt.Errorf("%w: the driver has no native XDP (%w); --generic takes the slow mode", ErrUnsupported, err)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST): // EEXIST: one in the other mode
		return fmt.Errorf("%w, and it is not ours to remove: %w", ErrForeignProgram, err)
	case errors.Is(err, unix.ERANGE), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the MTU of %d may be too large for native XDP (on a veth the peer's may be 3506), or offloads are in the way (LRO, too many queues)",
			err, mtu)
	}
	return Explain(err)
}

// IsGeneric reads IFLA_XDP_ATTACHED (enum of linux/if_link.h).
func IsGeneric(xdp *netlink.LinkXdp) bool {
	const attachedSKB = 2
	return xdp.AttachMode == attachedSKB
}

// ModeName is "generic" or "native".
func ModeName(generic bool) string {
	if generic {
		return "generic"
	}
	return "native"
}
