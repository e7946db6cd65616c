package web

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pktinfo is IP_PKTINFO or IPV6_PKTINFO: a socket of all addresses learns to which one a
// datagram was sent, and answers from it. Without it the kernel would choose the
// interface's address, and the client, who asked the VIP, would not listen.
type pktinfo interface {
	// read returns a datagram's length, its sender, and the address it was sent to.
	read(buffer []byte) (n int, peer net.Addr, local net.IP, err error)
	write(text []byte, peer net.Addr, local net.IP) error
}

// listenDatagrams listens on "udp4" or "udp6".
func listenDatagrams(ctx context.Context, network, address string) (*datagrams, error) {
	var config net.ListenConfig
	packet, err := config.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := packet.(*net.UDPConn)
	var wrapped pktinfo
	if network == "udp4" {
		of := ipv4.NewPacketConn(conn)
		wrapped, err = pktinfo4{of}, of.SetControlMessage(ipv4.FlagDst, true)
	} else {
		of := ipv6.NewPacketConn(conn)
		wrapped, err = pktinfo6{of}, of.SetControlMessage(ipv6.FlagDst, true)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask to which address datagrams were sent: %w", err), conn.Close())
	}
	return &datagrams{conn, wrapped}, nil
}

type pktinfo4 struct{ conn *ipv4.PacketConn }

func (p pktinfo4) read(buffer []byte) (n int, peer net.Addr, local net.IP, err error) {
	n, control, peer, err := p.conn.ReadFrom(buffer)
	if control != nil {
		local = control.Dst
	}
	return n, peer, local, err
}

func (p pktinfo4) write(text []byte, peer net.Addr, local net.IP) error {
	_, err := p.conn.WriteTo(text, &ipv4.ControlMessage{Src: local}, peer)
	return err
}

type pktinfo6 struct{ conn *ipv6.PacketConn }

func (p pktinfo6) read(buffer []byte) (n int, peer net.Addr, local net.IP, err error) {
	n, control, peer, err := p.conn.ReadFrom(buffer)
	if control != nil {
		local = control.Dst
	}
	return n, peer, local, err
}

// write leaves a link-local source to the kernel: it is one address on each link, and the peer's zone
// says which.
func (p pktinfo6) write(text []byte, peer net.Addr, local net.IP) error {
	control := &ipv6.ControlMessage{}
	if !local.IsLinkLocalUnicast() {
		control.Src = local
	}
	_, err := p.conn.WriteTo(text, control, peer)
	return err
}
