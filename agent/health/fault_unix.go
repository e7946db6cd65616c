//go:build !windows

package health

import "syscall"

// ours are the failures of this machine: out of file descriptors, ports or
// memory, or not allowed to (a local firewall says EPERM). They must not
// quarantine the backends.
func ours(errno syscall.Errno) bool {
	switch errno {
	case syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM, syscall.EACCES:
		return true
	}
	return false
}
