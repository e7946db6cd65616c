package datapath

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock returns the time of the data path's clock, in which Conn.LastSeen is
// written: CLOCK_MONOTONIC_COARSE, what bpf_ktime_get_coarse_ns reads.
func Clock() time.Duration {
	var now unix.Timespec
	// It cannot fail with a clock that exists and a valid pointer (clock_gettime(2)).
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now)
	return time.Duration(now.Nano())
}
