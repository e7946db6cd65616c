//go:build !linux

package capture

import "fmt"

// Start fails: other systems have no AF_PACKET sockets.
func Start(iface string, _ Options) (*Session, error) {
	return nil, fmt.Errorf("capture on %s: %w", iface, ErrNotSupported)
}
