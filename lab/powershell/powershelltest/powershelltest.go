// Package powershelltest has a machine for tests: a powershell.Runner that
// answers scripts by Go functions, known by the scripts' hashes as the simulated
// host knows them.
//
//	m := powershelltest.New()
//	powershelltest.On(m, verbs.SwitchEnsure, func(ctx context.Context, p scripts.SwitchEnsureParams) (scripts.SwitchEnsureResult, error) { … })
package powershelltest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"

	"l4lab/lab/powershell"
)

// Machine is a powershell.Runner. Use New.
type Machine struct {
	mu      sync.Mutex
	answers map[string]func(ctx context.Context, c powershell.Call, input []byte) (any, error)
	calls   []string
	running map[string]int
	most    map[string]int
	closed  bool
	// Meddle, when not nil, is asked before each call: an error is the call's.
	Meddle func(script string, input []byte) error
}

// New returns a machine that answers nothing yet.
func New() *Machine {
	return &Machine{answers: map[string]func(context.Context, powershell.Call, []byte) (any, error){}, running: map[string]int{}, most: map[string]int{}}
}

// On has the machine answer a verb.
func On[P, R any](m *Machine, v powershell.Verb[P, R], answer func(ctx context.Context, p P) (R, error)) {
	OnCall(m, v, func(ctx context.Context, _ powershell.Call, p P) (R, error) { return answer(ctx, p) })
}

// OnCall is On for a verb with streams.
func OnCall[P, R any](m *Machine, v powershell.Verb[P, R], answer func(ctx context.Context, c powershell.Call, p P) (R, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answers[v.Hash()] = func(ctx context.Context, c powershell.Call, input []byte) (any, error) {
		var p P
		decoder := json.NewDecoder(bytes.NewReader(input))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&p); err != nil {
			return nil, fmt.Errorf("%s: parameters %s: %w", v.Name, input, err)
		}
		return answer(ctx, c, p)
	}
}

// Run implements powershell.Runner.
func (m *Machine) Run(ctx context.Context, c powershell.Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	input, err := json.Marshal(c.Input)
	if err != nil {
		return err
	}
	m.mu.Lock()
	answer := m.answers[c.Script.Hash()]
	m.calls = append(m.calls, c.Script.Name)
	m.running[c.Script.Name]++
	m.most[c.Script.Name] = max(m.most[c.Script.Name], m.running[c.Script.Name])
	meddle := m.Meddle
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.running[c.Script.Name]--
	}()
	if meddle != nil {
		if err := meddle(c.Script.Name, input); err != nil {
			return err
		}
	}
	if answer == nil {
		return fmt.Errorf("%w: nothing known of the script %s", powershell.ErrProtocol, c.Script.Name)
	}
	result, err := answer(ctx, c, input)
	if err != nil {
		return err
	}
	if c.Stdin != nil {
		if _, err := io.Copy(io.Discard, c.Stdin); err != nil {
			return err
		}
	}
	if c.Result == nil {
		return nil
	}
	data, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, c.Result)
}

// Close implements powershell.Runner.
func (m *Machine) Close(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// Calls returns the names of the scripts that ran, in order.
func (m *Machine) Calls() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

// Count returns how often a script ran.
func (m *Machine) Count(script string) int {
	n := 0
	for _, name := range m.Calls() {
		if name == script {
			n++
		}
	}
	return n
}

// Most returns how many runs of a script there were at once.
func (m *Machine) Most(script string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most[script]
}

// Forget empties the list of calls.
func (m *Machine) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = nil
}
