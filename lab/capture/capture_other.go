//go:build !linux

package capture

import "fmt"

// Start fails: other systems have no AF_PACKET sockets.
func Start(iface string, opts Options) (*Session, error) {
	_, err := openInterface(iface, opts)
	return nil, err
}

func openInterface(iface string, _ Options) (source, error) {
	return nil, fmt.Errorf("capture on %s: %w", iface, ErrNotSupported)
}
