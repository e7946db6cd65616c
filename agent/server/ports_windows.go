package server

import "fmt"

// portOverlap warns always: Windows' dynamic ports, 49152 to 65535 unless
// somebody changed them, lie in SNAT's pool, and no API tells their range.
func portOverlap(low, high uint16) string {
	return fmt.Sprintf("SNAT uses source ports %d to %d: keep this machine's own connections out of them with "+
		"netsh int ipv4 set dynamicport tcp start=1025 num=%d, and the same for udp", low, high, low-1025)
}
