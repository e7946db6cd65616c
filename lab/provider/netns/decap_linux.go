package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"l4lab/agent/api"
	"l4lab/lab/guest"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/role"
	"l4lab/lab/state"
)

// decapRecord is what the node's folder keeps of an attached program.
type decapRecord struct {
	Spec string    `json:"spec"`
	Hook role.Hook `json:"hook"`
}

func (s system) decapFile() string { return filepath.Join(s.dir, "decap.json") }

// EnsureDecap implements role.System: `lbagent decap` attaches, pins and exits.
func (s system) EnsureDecap(ctx context.Context, d role.Decap) error {
	if err := s.push(ctx, d.Program, d.Hash); err != nil {
		return err
	}
	if err := os.MkdirAll(s.pins, 0o700); err != nil {
		return fmt.Errorf("%s: make the folder for pins: %w", s.machine, err)
	}
	err := s.Run(ctx, guest.Command{Argv: []string{
		filepath.Join(s.dir, programName), "decap", "attach", "--interface", fabric.InterfaceName, "--address", d.Address.String(),
		"--balancer", d.Balancer.String(), "--hook", string(d.Hook), "--pin-dir", s.decapPins(),
	}})
	if err != nil {
		return fmt.Errorf("%s (%s): attach decapsulation at %s: %w", s.machine, d.Address, d.Hook, err)
	}
	data, err := json.Marshal(decapRecord{Spec: d.Spec(), Hook: d.Hook})
	if err == nil {
		err = state.WriteFile(s.decapFile(), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%s: remember the decapsulation program: %w", s.machine, err)
	}
	return nil
}

// DecapStatus implements role.System.
func (s system) DecapStatus(ctx context.Context) (api.DecapStatus, error) {
	var out bytes.Buffer
	var status api.DecapStatus
	err := s.Run(ctx, guest.Command{
		Argv:   []string{filepath.Join(s.dir, programName), "decap", "status", "--pin-dir", s.decapPins(), "-o", "json"},
		Stdout: &out,
	})
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &status)
	}
	if err != nil {
		return status, fmt.Errorf("%s: ask the decapsulation program: %w", s.machine, err)
	}
	return status, nil
}

func (s system) decapPins() string { return filepath.Join(s.pins, "decap") }

// observeDecap trusts the record only as far as the kernel bears it out.
func (s system) observeDecap(eth netlink.Link) role.Present {
	data, err := os.ReadFile(s.decapFile())
	if err != nil {
		return role.Present{}
	}
	var r decapRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return role.Present{Fault: "its record cannot be read: " + err.Error()}
	}
	entries, err := os.ReadDir(s.decapPins())
	if err != nil || len(entries) == 0 {
		return role.Present{Fault: "its pins are gone"}
	}
	if r.Hook == role.XDP && !fabric.HasXDP(eth) || r.Hook == role.TC && !s.hasTCX(eth) {
		return role.Present{Fault: "detached"}
	}
	return role.Present{Spec: r.Spec}
}

// hasTCX says whether a TC program is on the interface. Kernels before 6.6 have
// no TCX to ask about; there the pins have to do.
func (s system) hasTCX(eth netlink.Link) bool {
	attached := true
	err := s.enter(func(ns fabric.Namespace) error {
		return ns.Do(func() error {
			result, err := link.QueryPrograms(link.QueryOptions{Target: eth.Attrs().Index, Attach: ebpf.AttachTCXIngress})
			if err == nil {
				attached = len(result.Programs) > 0
			}
			return nil
		})
	})
	return err == nil && attached
}
