package server

import (
	"fmt"
	"os"
)

// portRange is read in the network namespace of the process.
const portRange = "/proc/sys/net/ipv4/ip_local_port_range"

// portOverlap warns when this machine's own connections use source ports of
// SNAT's pool: their replies could be taken for a client's.
func portOverlap(low, high uint16) string {
	text, err := os.ReadFile(portRange)
	if err != nil {
		return ""
	}
	return overlapOf(string(text), low, high)
}

func overlapOf(text string, low, high uint16) string {
	var first, last uint16
	if _, err := fmt.Sscan(text, &first, &last); err != nil || last < low || first > high {
		return ""
	}
	return fmt.Sprintf("this machine's own connections use source ports %d to %d, SNAT %d to %d: replies may go astray; "+
		"sysctl -w net.ipv4.ip_local_port_range=%q keeps them apart", first, last, low, high, fmt.Sprintf("%d %d", 1024, low-1))
}
