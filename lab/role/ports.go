package role

import (
	"context"
	"fmt"
	"strings"

	"l4lab/lab/guest"
)

// LinuxEphemeralPorts asks a Linux guest for its own range of source ports
// (ip_local_port_range in ip-sysctl.rst of the kernel's documentation).
func LinuxEphemeralPorts(ctx context.Context, g guest.Guest) (low, high uint16, err error) {
	var out strings.Builder
	err = g.Run(ctx, guest.Command{Argv: []string{"cat", "/proc/sys/net/ipv4/ip_local_port_range"}, Stdout: &out})
	if err == nil {
		_, err = fmt.Sscan(out.String(), &low, &high)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read the range of ephemeral ports: %w", err)
	}
	return low, high, nil
}
