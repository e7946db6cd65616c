package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"l4lab/agent/testnet"
	"l4lab/bpf"
)

// addInterface gives the balancer an interface eth1 with an address.
func (r *rig) addInterface(t *testing.T) {
	t.Helper()
	r.Balancer.Do(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth1"
		eth1 := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth1peer"}
		address, err := netlink.ParseAddr("30.1.1.1/24")
		if err == nil {
			err = netlink.LinkAdd(eth1)
		}
		if err == nil {
			err = netlink.AddrAdd(eth1, address)
		}
		if err == nil {
			err = netlink.LinkSetUp(eth1)
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// addAddress gives eth0 another address.
func (r *rig) addAddress(t *testing.T, cidr string) {
	t.Helper()
	eth0 := r.Balancer.Link(t)
	r.Balancer.Do(t, func() { testnet.AddAddress(t, eth0, cidr) })
}

// held is what the pinned maps config, backends and services hold, as bytes.
func (r *rig) held(t *testing.T) []byte {
	t.Helper()
	var all []byte
	for _, name := range []string{bpf.LBMapConfig, bpf.LBMapBackends, bpf.LBMapServices} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(r.pins, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		var key, value []byte
		entries := m.Iterate()
		for entries.Next(&key, &value) {
			all = append(append(all, key...), value...)
		}
		if err := entries.Err(); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// A start that is refused must not touch what an earlier agent left forwarding.
func TestRefusedStartLeavesTheTrafficFlowing(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, r *rig)
		args  []string
		code  int
		says  string
	}{
		{"pins of another interface", nil, []string{"--device", "eth1"}, 1, "lbagent unload"},
		{"a damaged state file", func(t *testing.T, r *rig) {
			if err := os.WriteFile(r.stateFile(), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"--address", "20.1.1.2"}, 1, "damaged"},
		{"an address that is a service's", func(t *testing.T, r *rig) { r.addAddress(t, "40.1.1.1/32") },
			[]string{"--address", "40.1.1.1"}, 1, "needs a virtual one"},
		{"a state file that cannot be written", nil, []string{"--address", "20.1.1.2", "--state", "/proc/no/state.json"}, 1, "write the state file"},
		{"an address that the interface does not have", nil, []string{"--address", "9.9.9.9"}, 2, "9.9.9.9"},
		{"an interface that is not there", nil, []string{"--device", "nope"}, 2, "nope"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.addInterface(t)
			r.addAddress(t, "20.1.1.2/24")
			first := r.start(t)
			r.put(t)
			if err := first.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			first.wait(t)
			before := r.held(t)
			if c.spoil != nil {
				c.spoil(t, r)
			}
			second := r.launch(t, c.args...)
			if code := second.wait(t); code != c.code || !strings.Contains(second.stderr.String(), c.says) {
				t.Errorf("exit code %d, want %d: %s", code, c.code, second.stderr)
			}
			if !bytes.Equal(r.held(t), before) {
				t.Error("the maps are not what they were")
			}
			source := netip.MustParseAddrPort("20.1.1.100:45678")
			r.wire.send(t, source, vip, 0)
			if got := r.wire.receive(t); got.backend != chosen(t, source).Addr() {
				t.Errorf("the packet went to %s", got.backend)
			}
		})
	}
}

func (r *rig) stateFile() string { return strings.TrimSuffix(r.socket, ".sock") + ".state.json" }
