package hvsim

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

// direct opens PowerShell Direct to a machine: it must be on, run Windows, and
// have come up. What the guest says of the credential is Guests' matter.
func (h *Host) direct(id, mark string, c scripts.Credential) (*machine, Login, error) {
	h.store.Lock()
	defer h.store.Unlock()
	vm, err := h.byID(id, mark)
	if err != nil {
		return nil, Login{}, err
	}
	switch h.refresh(vm); {
	case !vm.power.on:
		return nil, Login{}, fail(scripts.GuestNotReady, vm.Name, "The virtual machine %s is not in running state.", vm.Name)
	case vm.power.hung, vm.power.stopping, h.osOf(vm) != topology.Windows:
		return nil, Login{}, fail(scripts.GuestNotReady, vm.Name, "A remote session might have ended: machine %s does not answer PowerShell Direct.", vm.Name)
	case c.User == "" || c.Password == "":
		return nil, Login{}, fail(scripts.GuestAuth, vm.Name, "The credential is invalid.")
	}
	return vm, Login{c.User, c.Password}, nil
}

func (h *Host) guestInvoke(ctx context.Context, p scripts.GuestInvokeParams) (scripts.GuestInvokeResult, error) {
	var none scripts.GuestInvokeResult
	text, err := base64.StdEncoding.DecodeString(p.Script)
	if err != nil {
		return none, fail("FormatException", "", "The input is not a valid Base-64 string.")
	}
	vm, login, err := h.direct(p.ID, p.Mark, p.Credential)
	if err != nil {
		return none, err
	}
	contract, known := h.guestContracts[powershell.Script{Text: string(text)}.Hash()]
	if !known {
		f := &failure{code: idUnknownScript, message: fmt.Sprintf("this guest is simulated and knows no script of SHA-256 %s", powershell.Script{Text: string(text)}.Hash())}
		return guestFailure(f), nil
	}
	// The guest binds parameters as the host does; none are an empty object.
	if string(p.Input) == "null" {
		p.Input = json.RawMessage("{}")
	}
	if err := bind(contract.Text, p.Input, reflect.New(contract.Params).Interface()); err != nil {
		return guestFailure(failureOf(err)), nil
	}
	result, err := h.guests.Invoke(ctx, vm.ID, login, contract, p.Input)
	var script *powershell.ScriptError
	switch {
	case errors.As(err, &script):
		return guestFailure(failureOf(err)), nil
	case err != nil:
		f := failureOf(err)
		f.target = vm.Name
		return none, f
	}
	if contract.Name == h.restart {
		h.restarted(ctx, vm)
	}
	if result, err = conform(result, contract.Result); err != nil {
		return none, err
	}
	answer, err := json.Marshal(result)
	return scripts.GuestInvokeResult{OK: true, Result: answer}, err
}

func guestFailure(f *failure) scripts.GuestInvokeResult {
	return scripts.GuestInvokeResult{Error: &scripts.GuestError{Code: f.code, Message: f.message, Target: f.target}}
}

// restarted has a guest that restarts not come back, where that is wanted.
func (h *Host) restarted(ctx context.Context, vm *machine) {
	defer h.alone(vm.ID)()
	h.store.Lock()
	defer h.store.Unlock()
	if !vm.power.on || !h.faults.rebootHangs(vm) {
		return
	}
	if err := h.guests.Stop(ctx, vm.ID, false); err != nil {
		h.log.Warn("a guest that shall hang was not ended", "machine", vm.Name, "error", err)
	}
	vm.power.hung = true
}

func (h *Host) guestPush(ctx context.Context, p scripts.GuestCopyParams) (scripts.Changed, error) {
	if _, err := h.vmState(ctx, scripts.VMParams{ID: p.ID, Mark: p.Mark}); err != nil {
		return scripts.Changed{}, err
	}
	real, err := h.drives.real(p.HostPath)
	if err != nil {
		return scripts.Changed{}, err
	}
	_, hash, exists, err := probe(real)
	switch {
	case err != nil:
		return scripts.Changed{}, err
	case !exists:
		return scripts.Changed{}, fail(scripts.NotFound, p.HostPath, "there is no such file on the host")
	case !strings.EqualFold(hash, p.SHA256):
		return scripts.Changed{}, fail(scripts.HashMismatch, p.HostPath, "the file on the host has another SHA-256")
	}
	vm, login, err := h.direct(p.ID, p.Mark, p.Credential)
	if err != nil {
		return scripts.Changed{}, err
	}
	there, err := h.guestHash(ctx, vm, login, p.GuestPath)
	if err != nil || strings.EqualFold(there, p.SHA256) {
		return scripts.Changed{}, err
	}
	return changed("file"), guestError(vm, h.guests.CopyIn(ctx, vm.ID, login, real, p.GuestPath))
}

// guestHash returns the SHA-256 of a guest's file, "" when there is none.
func (h *Host) guestHash(ctx context.Context, vm *machine, login Login, path string) (string, error) {
	input, err := json.Marshal(guestscripts.FileParams{Path: path})
	if err != nil {
		return "", err
	}
	result, err := h.guests.Invoke(ctx, vm.ID, login, h.guestVerbs.FileProbe.Contract(), input)
	if err != nil {
		return "", guestError(vm, err)
	}
	file, ok := result.(guestscripts.FileProbeResult)
	if !ok {
		return "", fmt.Errorf("the guest answers with a %T", result)
	}
	return file.SHA256, nil
}

func (h *Host) guestPull(ctx context.Context, p scripts.GuestCopyParams) (scripts.Changed, error) {
	vm, login, err := h.direct(p.ID, p.Mark, p.Credential)
	if err != nil {
		return scripts.Changed{}, err
	}
	there, err := h.guestHash(ctx, vm, login, p.GuestPath)
	if err != nil {
		return scripts.Changed{}, err
	}
	if there == "" {
		return scripts.Changed{}, fail(scripts.NotFound, p.GuestPath, "there is no such file in the guest")
	}
	real, err := h.drives.real(p.HostPath)
	if err != nil {
		return scripts.Changed{}, err
	}
	if _, hash, _, err := probe(real); err != nil || strings.EqualFold(hash, there) {
		return scripts.Changed{}, err
	}
	if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
		return scripts.Changed{}, err
	}
	return changed("file"), guestError(vm, h.guests.CopyOut(ctx, vm.ID, login, p.GuestPath, real))
}

// guestError names the machine that an error of Guests is about.
func guestError(vm *machine, err error) error {
	if err == nil {
		return nil
	}
	f := *failureOf(err)
	if f.target == "" {
		f.target = vm.Name
	}
	return &f
}
