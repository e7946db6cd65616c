package hyperv

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"l4lab/lab/guest/keys"
	"l4lab/lab/guest/seed"
	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

// linuxSeed is what a Linux node is told at its start.
type linuxSeed struct {
	content []byte
	hash    string
	// applied is the hash of the one that its machine was set up with, "" for none.
	applied string
}

func seedFile(lab provider.Lab, node string) string {
	return filepath.Join(state.NodeDir(lab.Dir, node), "seed")
}

// seedOf returns a node's seed.
func (h *host) seedOf(lab provider.Lab, name string) (linuxSeed, error) {
	t := lab.Topology
	node := t.Nodes[name]
	login, err := keys.Client(lab.Dir)
	if err != nil {
		return linuxSeed{}, err
	}
	own, err := keys.Host(lab.Dir, name)
	if err != nil {
		return linuxSeed{}, err
	}
	user := topology.DefaultLinuxUser
	if image := h.target.Images.Linux; image != nil {
		user = image.Login.User
	}
	var disc bytes.Buffer
	err = seed.Write(&disc, seed.Seed{
		Hostname: name, User: user, Login: login, HostKey: own, MAC: macOf(node.Address),
		Address: netip.PrefixFrom(node.Address, t.Switch.Subnet.Bits()), MTU: t.Switch.MTU,
	})
	if err != nil {
		return linuxSeed{}, err
	}
	applied, err := os.ReadFile(seedFile(lab, name))
	if err != nil && !os.IsNotExist(err) {
		return linuxSeed{}, err
	}
	return linuxSeed{content: disc.Bytes(), hash: hashText(disc.String()), applied: strings.TrimSpace(string(applied))}, nil
}

// note remembers that a node's machine was set up with the seed.
func (s linuxSeed) note(lab provider.Lab, name string) error {
	path := seedFile(lab, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return state.WriteFile(path, []byte(s.hash+"\n"), 0o600)
}
