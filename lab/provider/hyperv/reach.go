package hyperv

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"l4lab/lab/guest/keys"
	"l4lab/lab/guest/ssh"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

// sshPort is where guests and the host serve SSH.
const sshPort = 22

// hostKeyFile is where the host's OpenSSH server keeps its public key. Read over
// WinRM, whose host has been proved, it is no trust on first use.
const hostKeyFile = `C:\ProgramData\ssh\ssh_host_ed25519_key.pub`

// linuxGuest returns the way into a Linux node, which is not spoken to yet. Its
// one connection is kept.
func (h *host) linuxGuest(lab provider.Lab, name string) (*ssh.Guest, error) {
	node := lab.Topology.Nodes[name]
	h.mu.Lock()
	defer h.mu.Unlock()
	user := topology.DefaultLinuxUser
	if image := h.target.Images.Linux; image != nil {
		user = image.Login.User
	}
	key := name + " " + user + "@" + node.Address.String()
	if g := h.guests[key]; g != nil {
		return g, nil
	}
	client, err := keys.Client(lab.Dir)
	if err != nil {
		return nil, err
	}
	own, err := keys.Host(lab.Dir, name)
	if err != nil {
		return nil, err
	}
	g, err := ssh.New(ssh.Config{
		Machine: name, Address: net.JoinHostPort(node.Address.String(), strconv.Itoa(sshPort)),
		User: user, Sudo: user != "root", Key: client, HostKey: own.Public(), Dial: h.dial,
	})
	if err != nil {
		return nil, err
	}
	h.guests[key] = g
	return g, nil
}

// dial connects to a Linux guest by the way that the topology wants.
func (h *host) dial(ctx context.Context, network, address string) (net.Conn, error) {
	switch h.target.Reach {
	case topology.ReachSSHJump:
		jump, err := h.jumpHost(ctx)
		if err != nil {
			return nil, err
		}
		return jump.Forward(ctx, network, address)
	case topology.ReachPortProxy:
		through, err := h.forwarded(ctx, address)
		if err != nil {
			return nil, err
		}
		address = through
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// jumpHost returns the host's SSH server.
func (h *host) jumpHost(ctx context.Context) (*ssh.Guest, error) {
	h.mu.Lock()
	jump := h.jump
	h.mu.Unlock()
	if jump != nil {
		return jump, nil
	}
	c, err := h.jumpConfig(ctx)
	if err != nil {
		return nil, err
	}
	if jump, err = ssh.New(c); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.jump == nil {
		h.jump = jump
	}
	return h.jump, nil
}

func (h *host) jumpConfig(ctx context.Context) (ssh.Config, error) {
	if j := h.target.Jump; j != nil {
		return ssh.Config{Machine: "the Hyper-V host", Address: j.Address, User: j.User, Key: j.Key, HostKey: j.HostKey}, nil
	}
	user, err := userOf(h.target.Host.Credentials)
	if err != nil {
		return ssh.Config{}, h.errorf("log on over SSH: %w", err)
	}
	var key bytes.Buffer
	if err := transfer.Download(ctx, h.runner, h.verbs.Verbs, hostKeyFile, &key, nil); err != nil {
		return ssh.Config{}, h.errorf("read the key of its SSH server: %w; is OpenSSH's server installed? `reach: portproxy` needs none", err)
	}
	return ssh.Config{
		Machine: "the Hyper-V host", Address: net.JoinHostPort(h.target.Host.Address, strconv.Itoa(sshPort)), User: user,
		HostKey: strings.TrimSpace(key.String()),
		Password: func() (string, error) {
			password, err := h.p.passwordOf(context.WithoutCancel(ctx), h.target.Host.Credentials, user+" on the Hyper-V host")
			return string(password), err
		},
	}, nil
}

// firstForward is the first of the host's ports that lead to guests.
const firstForward = 42000

// forwarded has a port of the host lead to a guest, and returns where it is.
func (h *host) forwarded(ctx context.Context, address string) (string, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return "", err
	}
	// The same port each time for a guest; labs whose guests have the same last
	// two bytes cannot be on a host at once, and the verb says so.
	last := to.Addr().As4()
	port := firstForward + (int(last[2])<<8|int(last[3]))%20000
	h.mu.Lock()
	there := h.forwards[address]
	h.mu.Unlock()
	if !there {
		_, err := h.verbs.PortProxyEnsure.Run(ctx, h.runner, scripts.PortProxyParams{
			ListenPort: port, ConnectAddress: to.Addr().String(), ConnectPort: int(to.Port()), Folder: h.folder,
		})
		if err != nil {
			return "", h.errorf("forward its port %d to %s: %w", port, address, err)
		}
		h.mu.Lock()
		h.forwards[address] = true
		h.mu.Unlock()
	}
	if h.target.Host == nil {
		return "", fmt.Errorf("reach portproxy needs a host")
	}
	return net.JoinHostPort(h.target.Host.Address, strconv.Itoa(port)), nil
}
