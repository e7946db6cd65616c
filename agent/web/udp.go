package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
)

// datagramSize is what is read of a datagram; the rest of it is cut off, since
// only its sender counts.
const datagramSize = 512

// datagrams is a UDP socket that answers in the name of the address to which
// it was asked; udp_linux.go and udp_other.go have its system's part.
type datagrams struct {
	conn *net.UDPConn
	pktinfo
}

// answer serves until the socket is closed; it always returns an error.
func (d *datagrams) answer(identity Identity, log *slog.Logger) error {
	buffer := make([]byte, datagramSize)
	failures := 0
	for {
		n, peer, local, err := d.read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			// Some systems report an ICMP error for an answer of ours here; the
			// socket is fine then.
			if failures++; failures > 100 {
				return fmt.Errorf("receive, 100 times in a row: %w", err)
			}
			log.Warn("datagram", "error", err)
			continue
		}
		failures = 0
		text, err := json.Marshal(Whoami{identity, peerOf(peer)})
		if err != nil {
			return fmt.Errorf("write whoami: %w", err)
		}
		if isAnswer(buffer[:n]) {
			continue // two servers would answer each other without end
		}
		if err := d.write(append(text, '\n'), peer, local); err != nil {
			log.Warn("datagram", "client", peer.String(), "error", err)
			continue
		}
		log.Info("datagram", "client", peer.String(), "bytes", n)
	}
}

// isAnswer says that a datagram is what a server of this kind sends.
func isAnswer(datagram []byte) bool { return bytes.HasPrefix(datagram, []byte(`{"name":`)) }
