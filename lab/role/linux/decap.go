package linux

import (
	"context"
	"encoding/json"

	"l4lab/agent/api"
	"l4lab/lab/role"
)

const decapPins = Pins + "/decap"

// EnsureDecap implements role.System: the unit runs `lbagent decap attach`,
// which attaches, pins and exits. Run again it changes what differs and keeps the
// rest, its counters too; stopping the unit takes nothing off.
func (s *System) EnsureDecap(ctx context.Context, d role.Decap) error {
	have, err := s.links(ctx)
	if err != nil {
		return err
	}
	device, err := s.device(have)
	if err != nil {
		return err
	}
	if err := s.push(ctx, d.Program, d.Hash); err != nil {
		return err
	}
	u := unit{
		name: decapUnit, description: "l4lab: decapsulation of DSR's requests", oneshot: true, needs: "/sys/fs/bpf",
		start: [][]string{{
			Program, "decap", "attach", "--interface", device, "--address", d.Address.String(),
			"--balancer", d.Balancer.String(), "--hook", string(d.Hook), "--pin-dir", decapPins,
		}},
		record: record{Spec: d.Spec(), Device: device},
	}
	changed, err := s.ensureUnit(ctx, u)
	if err != nil {
		return err
	}
	if !changed {
		if status, err := s.DecapStatus(ctx); err == nil && status.Attached {
			return nil
		}
	}
	return s.restart(ctx, decapUnit)
}

// decapStatusArgv asks the program for its counters.
func decapStatusArgv() []string {
	return []string{Program, "decap", "status", "--pin-dir", decapPins, "-o", "json"}
}

// DecapStatus implements role.System.
func (s *System) DecapStatus(ctx context.Context) (api.DecapStatus, error) {
	var status api.DecapStatus
	out, err := s.run(ctx, nil, decapStatusArgv()...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &status)
	}
	if err != nil {
		return status, s.errorf("ask the decapsulation program: %w", err)
	}
	return status, nil
}
