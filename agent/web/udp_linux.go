package web

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/net/ipv4"
)

// pktinfo is IP_PKTINFO: a socket on 0.0.0.0 learns to which address a
// datagram was sent, and answers from it. Without it the kernel would choose the
// interface's address, and the client, who asked the VIP, would not listen.
type pktinfo struct{ conn *ipv4.PacketConn }

func listenDatagrams(ctx context.Context, address string) (*datagrams, error) {
	var config net.ListenConfig
	packet, err := config.ListenPacket(ctx, "udp4", address)
	if err != nil {
		return nil, err
	}
	conn := packet.(*net.UDPConn)
	wrapped := ipv4.NewPacketConn(conn)
	if err := wrapped.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return nil, errors.Join(fmt.Errorf("set IP_PKTINFO: %w", err), conn.Close())
	}
	return &datagrams{conn, pktinfo{wrapped}}, nil
}

// read returns a datagram's length, its sender, and the address it was sent to.
func (p pktinfo) read(buffer []byte) (n int, peer net.Addr, local net.IP, err error) {
	n, control, peer, err := p.conn.ReadFrom(buffer)
	if control != nil {
		local = control.Dst
	}
	return n, peer, local, err
}

func (p pktinfo) write(text []byte, peer net.Addr, local net.IP) error {
	_, err := p.conn.WriteTo(text, &ipv4.ControlMessage{Src: local}, peer)
	return err
}
