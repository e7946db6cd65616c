package health

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// ours are the failures of this machine: out of sockets, ports or memory, or
// not allowed to. They must not quarantine the backends.
func ours(errno syscall.Errno) bool {
	switch errno {
	case windows.WSAEMFILE, windows.WSAEADDRNOTAVAIL, windows.WSAENOBUFS, windows.WSAEACCES:
		return true
	}
	return false
}
