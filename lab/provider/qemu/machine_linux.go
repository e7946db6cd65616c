package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"l4lab/lab/guest/keys"
	"l4lab/lab/guest/seed"
	"l4lab/lab/guest/ssh"
	"l4lab/lab/provider"
	"l4lab/lab/role/linux"
	"l4lab/lab/state"
)

// sshPort is where guests serve SSH.
const sshPort = "22"

// Machine implements provider.Provider. The guest is not spoken to yet.
func (p *Provider) Machine(lab provider.Lab, name string) (provider.Machine, error) {
	t := lab.Topology
	if !slices.Contains(t.MachineNames(), name) {
		return provider.Machine{}, fmt.Errorf("lab %s has no machine %q; it has %s", t.Name, name, strings.Join(t.MachineNames(), ", "))
	}
	if name == t.Client.Name {
		return p.base.Machine(lab, name)
	}
	if isWindows(t, name) {
		w, err := p.windowsGuest(lab, name)
		if err != nil {
			return provider.Machine{}, err
		}
		return provider.Machine{Guest: w.Machine, System: windowsSystem{w.Machine, state.NodeDir(lab.Dir, name)}}, nil
	}
	g, err := p.guest(lab, name)
	if err != nil {
		return provider.Machine{}, err
	}
	s, err := linux.New(linux.Options{Guest: g, Machine: name, Address: t.Nodes[name].Address})
	return provider.Machine{Guest: g, System: system{s, state.NodeDir(lab.Dir, name)}}, err
}

// guest returns the way into a node. Its one connection is kept.
func (p *Provider) guest(lab provider.Lab, name string) (*ssh.Guest, error) {
	address := lab.Topology.Nodes[name].Address
	key := guestKey(lab, name) + address.String()
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.guests[key]; g != nil {
		return g, nil
	}
	login, own, err := keysOf(lab, name)
	if err != nil {
		return nil, err
	}
	client, err := p.base.Machine(lab, lab.Topology.Client.Name)
	if err != nil {
		return nil, err
	}
	g, err := ssh.New(ssh.Config{
		Machine: name, Address: net.JoinHostPort(address.String(), sshPort), User: seed.Root, Key: login, HostKey: own.Public(),
		// The client is the one machine of labctl's own on the switch.
		Dial: func(ctx context.Context, network, to string) (net.Conn, error) {
			return client.Guest.Dial(ctx, network, "", to)
		},
	})
	if err != nil {
		return nil, err
	}
	p.guests[key] = g
	return g, nil
}

func guestKey(lab provider.Lab, name string) string { return lab.Dir + "\x00" + name + "\x00" }

// drop ends the connection to a node and forgets it.
func (p *Provider) drop(lab provider.Lab, name string) {
	p.dropWindows(lab, name)
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, g := range p.guests {
		if strings.HasPrefix(key, guestKey(lab, name)) {
			_ = g.Close()
			delete(p.guests, key)
		}
	}
}

func keysOf(lab provider.Lab, name string) (login, own keys.Key, err error) {
	if login, err = keys.Client(lab.Dir); err != nil {
		return login, own, err
	}
	own, err = keys.Host(lab.Dir, name)
	return login, own, err
}

// record is what is remembered of a machine besides its process.
type record struct {
	// Design is the hash of what it was made from, Image the image's name.
	Design string `json:"design"`
	Image  string `json:"image"`
	// Ready says that it has answered.
	Ready bool `json:"ready"`
	// Accel is how it runs, Disk the disk in its folder that it writes to.
	Accel string `json:"accel"`
	Disk  string `json:"disk"`
}

func recordFile(dir string) string { return filepath.Join(dir, "machine.json") }

// readRecord returns what is remembered of a machine, the zero record when nothing is.
func readRecord(dir string) (record, error) {
	var r record
	data, err := os.ReadFile(recordFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return record{}, fmt.Errorf("read %s: %w", recordFile(dir), err)
	}
	return r, nil
}

func (r record) write(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return state.WriteFile(recordFile(dir), data, 0o600)
}
