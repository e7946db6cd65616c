package windows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"strings"

	"l4lab/lab/role"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

// Observe implements role.System.
func (m *Machine) Observe(ctx context.Context) (role.Facts, error) {
	f, err := m.Facts(ctx)
	if err != nil {
		return role.Facts{}, err
	}
	return m.FactsOf(ctx, f)
}

// FactsOf returns what Observe would of facts that were asked for already.
func (m *Machine) FactsOf(ctx context.Context, f guestscripts.FactsResult) (role.Facts, error) {
	var facts role.Facts
	for _, text := range f.VIPs {
		vip, err := parseAddress(text)
		if err != nil {
			return facts, m.errorf("its loopback has an address that is none: %w", err)
		}
		facts.VIPs = append(facts.VIPs, vip)
	}
	for _, s := range f.Services {
		switch s.Name {
		case agentService:
			facts.Agent = m.present(ctx, s, m.agentAnswers)
		case decapService:
			facts.Decap = attached(s)
		case webService:
			facts.Page = m.present(ctx, s, nil)
		}
	}
	if m.Page == topology.PageNative && facts.Page == (role.Present{}) {
		spec, err := m.iisSpec(ctx)
		if err != nil {
			return facts, err
		}
		facts.Page.Spec = spec
	}
	return facts, nil
}

// present says what a service that shall run is worth.
func (m *Machine) present(ctx context.Context, s guestscripts.ServiceFacts, answers func(context.Context) error) role.Present {
	switch {
	case strings.EqualFold(s.State, "Stopped"):
		return role.Present{Fault: fmt.Sprintf("exited (code %d)", s.ExitCode)}
	case !strings.EqualFold(s.State, "Running"):
		return role.Present{PID: s.PID, Fault: "is " + strings.ToLower(s.State)}
	}
	if answers != nil && answers(ctx) != nil {
		return role.Present{Spec: s.Spec, PID: s.PID, Fault: "does not answer"}
	}
	return role.Present{Spec: s.Spec, PID: s.PID}
}

// attached says what the decapsulation's service is worth, which attaches and ends.
func attached(s guestscripts.ServiceFacts) role.Present {
	if s.ExitCode != 0 {
		return role.Present{Fault: fmt.Sprintf("did not attach (exit code %d)", s.ExitCode)}
	}
	return role.Present{Spec: s.Spec}
}

func (m *Machine) iisSpec(ctx context.Context) (string, error) {
	f, err := m.open(ctx, iisRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	spec, err := io.ReadAll(f)
	return string(spec), err
}

// parseAddress reads "40.1.1.1" or "40.1.1.1/32".
func parseAddress(text string) (netip.Addr, error) {
	address, _, _ := strings.Cut(text, "/")
	return netip.ParseAddr(address)
}
