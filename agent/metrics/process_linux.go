package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ticks are the units a second of times in /proc: USER_HZ, 100 on all
// architectures that Go has.
const ticks = 100

// errFormat: a file in /proc is not as proc(5) has it.
var errFormat = errors.New("is not as proc(5) describes it")

func (p process) show() {
	_ = p.stat()
	_ = p.network()
	if names, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.openFiles(float64(len(names) - 1)) // without the folder's own
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		p.maxFiles(float64(limit.Cur))
	}
	if err := unix.Getrlimit(unix.RLIMIT_AS, &limit); err == nil {
		p.gauge("virtual_memory_max_bytes", "Virtual memory that the process may have.", float64(limit.Cur))
	}
}

// stat shows what /proc/self/stat says (proc_pid_stat(5)).
func (p process) stat() error {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	// The second field, the name, may have spaces and parentheses of its own; the
	// third is the first after it.
	end := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 22 {
		return fmt.Errorf("/proc/self/stat %w", errFormat)
	}
	number := func(field int) float64 {
		n, _ := strconv.ParseUint(fields[field-3], 10, 64)
		return float64(n)
	}
	p.memory(number(23), number(24)*float64(os.Getpagesize()))
	booted, err := bootTime()
	if err != nil {
		return err
	}
	p.times((number(14)+number(15))/ticks, booted+number(22)/ticks)
	return nil
}

// bootTime is in seconds since the epoch.
func bootTime() (float64, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "btime "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("/proc/stat %w", errFormat)
}

// network shows the bytes of IP of the process' network namespace.
func (p process) network() error {
	text, err := os.ReadFile("/proc/self/net/netstat")
	if err != nil {
		return err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "IpExt:" {
			continue
		}
		if names == nil {
			names = fields // the values follow in a line of their own
			continue
		}
		for i := 1; i < min(len(names), len(fields)); i++ {
			n, err := strconv.ParseUint(fields[i], 10, 64)
			switch {
			case err != nil:
			case names[i] == "InOctets":
				p.counter("network_receive_bytes_total", "Bytes of IP received in the process' network namespace.", float64(n))
			case names[i] == "OutOctets":
				p.counter("network_transmit_bytes_total", "Bytes of IP sent from the process' network namespace.", float64(n))
			}
		}
		return nil
	}
	return fmt.Errorf("/proc/self/net/netstat %w", errFormat)
}
