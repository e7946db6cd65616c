//go:build !linux

package web

import (
	"context"
	"net"
)

// pktinfo does without IP_PKTINFO, which golang.org/x/net/ipv4 and ipv6 lack outside
// Unix: to answer in a VIP's name there, listen on the VIP itself.
type pktinfo struct{ conn *net.UDPConn }

// listenDatagrams listens on "udp4" or "udp6".
func listenDatagrams(ctx context.Context, network, address string) (*datagrams, error) {
	var config net.ListenConfig
	packet, err := config.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := packet.(*net.UDPConn)
	return &datagrams{conn, pktinfo{conn}}, nil
}

func (p pktinfo) read(buffer []byte) (n int, peer net.Addr, local net.IP, err error) {
	n, peer, err = p.conn.ReadFrom(buffer)
	return n, peer, nil, err
}

func (p pktinfo) write(text []byte, peer net.Addr, _ net.IP) error {
	_, err := p.conn.WriteTo(text, peer)
	return err
}
