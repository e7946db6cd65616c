package datapath

import (
	"time"

	"golang.org/x/sys/windows"
)

// Clock returns the time of the data path's clock, in which Conn.LastSeen is
// written: milliseconds since boot, sleep included, what bpf_ktime_get_boot_ms
// reads there. GetTickCount64 has the same base. Not compared on a Windows host yet.
func Clock() time.Duration { return windows.DurationSinceBoot() }
