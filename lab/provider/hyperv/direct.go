package hyperv

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"l4lab/lab/guest"
	"l4lab/lab/powershell"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows"
	"l4lab/topology"
)

// direct is a powershell.Runner in a Windows guest, by PowerShell Direct: the
// host runs the guest's script in it. It carries no streams.
type direct struct {
	h    *host
	lab  provider.Lab
	node string
}

// Run implements powershell.Runner.
func (d direct) Run(ctx context.Context, c powershell.Call) error {
	if c.Stdin != nil || c.Stdout != nil || c.Stderr != nil {
		return fmt.Errorf("%s: script %s: %w", d.node, c.Script.Name, windows.ErrNoStream)
	}
	input, err := json.Marshal(c.Input)
	if err != nil {
		return fmt.Errorf("%s: parameters of %s: %w", d.node, c.Script.Name, err)
	}
	id, login, err := d.way(ctx)
	if err != nil {
		return err
	}
	invoke := d.h.verbs.GuestInvoke.Script
	invoke.Repeatable = c.Script.Repeatable
	var r scripts.GuestInvokeResult
	err = d.h.runner.Run(ctx, powershell.Call{Script: invoke, Result: &r, Input: scripts.GuestInvokeParams{
		ID: id, Mark: d.h.mark, Credential: login,
		Script: base64.StdEncoding.EncodeToString([]byte(c.Script.Text)), Input: input,
	}})
	if code(err, scripts.NotFound) {
		d.h.remember(d.node, "") // it was made anew since
	}
	switch {
	case err != nil:
		return err
	case !r.OK && r.Error == nil:
		return fmt.Errorf("%w: %s failed in the guest and does not say how", powershell.ErrProtocol, c.Script.Name)
	case !r.OK:
		return &powershell.ScriptError{Script: c.Script.Name, Code: r.Error.Code, Message: r.Error.Message, Target: r.Error.Target}
	case c.Result == nil:
		return nil
	}
	if err := json.Unmarshal(r.Result, c.Result); err != nil {
		return fmt.Errorf("%w: the result of %s in the guest: %w", powershell.ErrProtocol, c.Script.Name, err)
	}
	return nil
}

// Close implements powershell.Runner; the host's runner is not the guest's to close.
func (d direct) Close(context.Context) error { return nil }

func (d direct) way(ctx context.Context) (id string, login scripts.Credential, err error) {
	image := d.h.target.Images.Windows
	if image == nil {
		return "", login, errors.New("the topology has no image for windows")
	}
	if login, err = d.h.p.windowsLogin(ctx, d.lab, *image); err != nil {
		return "", login, err
	}
	id, err = d.h.id(ctx, d.lab.Topology, d.node)
	return id, login, err
}

// push brings a local file into the guest: to the host first, once for all
// guests, and from there by PowerShell Direct.
func (d direct) push(ctx context.Context, source, hash, path string) error {
	if hash == "" {
		var err error
		if hash, err = guest.HashFile(source); err != nil {
			return err
		}
	}
	there, err := d.h.program(ctx, source, hash)
	if err != nil {
		return err
	}
	id, login, err := d.way(ctx)
	if err != nil {
		return err
	}
	_, err = d.h.verbs.GuestPush.Run(ctx, d.h.runner, scripts.GuestCopyParams{
		ID: id, Mark: d.h.mark, Credential: login, HostPath: there, GuestPath: path, SHA256: hash,
	})
	if err != nil {
		return d.h.errorf("copy %s into %s: %w", filepath.Base(source), d.node, err)
	}
	return nil
}

// windowsMachine returns the way into a Windows node.
func (h *host) windowsMachine(lab provider.Lab, name string) (*windows.Machine, error) {
	node := lab.Topology.Nodes[name]
	d := direct{h, lab, name}
	return windows.New(windows.Options{
		Changing: h.lock("services of " + name),
		Machine:  name, Address: node.Address, MAC: macOf(node.Address), Runner: d, Upload: d.push,
		Profile: h.target.EBPF.Profile, Loopback: h.target.Loopback, Page: h.target.Page,
	})
}

// isWindows says what a node runs.
func isWindows(t topology.Topology, name string) bool { return t.Nodes[name].OS == topology.Windows }
