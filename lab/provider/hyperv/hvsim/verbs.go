package hvsim

import (
	"context"
	"encoding/json"
	"slices"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/scripts"
)

// handler answers to one verb.
type handler func(h *Host, ctx context.Context, input json.RawMessage, s streams) (any, error)

// on makes a handler of a function that has the verb's own types, so that one
// of others does not compile.
func on[P, R any](v powershell.Verb[P, R], f func(*Host, context.Context, P) (R, error)) handler {
	return func(h *Host, ctx context.Context, input json.RawMessage, _ streams) (any, error) {
		var p P
		if err := bind(v.Text, input, &p); err != nil {
			return nil, err
		}
		return f(h, ctx, p)
	}
}

// streaming is on for a verb that reads standard input or writes data lines.
func streaming[P, R any](v powershell.Verb[P, R], f func(*Host, context.Context, P, streams) (R, error)) handler {
	return func(h *Host, ctx context.Context, input json.RawMessage, s streams) (any, error) {
		var p P
		if err := bind(v.Text, input, &p); err != nil {
			return nil, err
		}
		return f(h, ctx, p, s)
	}
}

// handlers is the table of what each verb of the contract does here.
func handlers(v scripts.Verbs) map[string]handler {
	return map[string]handler{
		v.HostCheck.Name:         on(v.HostCheck, (*Host).hostCheck),
		v.LabObserve.Name:        on(v.LabObserve, (*Host).labObserve),
		v.SwitchEnsure.Name:      on(v.SwitchEnsure, (*Host).switchEnsure),
		v.SwitchRemove.Name:      on(v.SwitchRemove, (*Host).switchRemove),
		v.HostAddressEnsure.Name: on(v.HostAddressEnsure, (*Host).hostAddressEnsure),
		v.HostRoutesEnsure.Name:  on(v.HostRoutesEnsure, (*Host).hostRoutesEnsure),
		v.ImageProbe.Name:        on(v.ImageProbe, (*Host).imageProbe),
		v.DiskEnsure.Name:        on(v.DiskEnsure, (*Host).diskEnsure),
		v.UnattendWrite.Name:     on(v.UnattendWrite, (*Host).unattendWrite),
		v.VMEnsure.Name:          on(v.VMEnsure, (*Host).vmEnsure),
		v.VMStart.Name:           on(v.VMStart, (*Host).vmStart),
		v.VMStop.Name:            on(v.VMStop, (*Host).vmStop),
		v.VMState.Name:           on(v.VMState, (*Host).vmState),
		v.VMRemove.Name:          on(v.VMRemove, (*Host).vmRemove),
		v.SeedEject.Name:         on(v.SeedEject, (*Host).seedEject),
		v.CheckpointCreate.Name:  on(v.CheckpointCreate, (*Host).checkpointCreate),
		v.CheckpointRestore.Name: on(v.CheckpointRestore, (*Host).checkpointRestore),
		v.CheckpointRemove.Name:  on(v.CheckpointRemove, (*Host).checkpointRemove),
		v.PortProxyEnsure.Name:   on(v.PortProxyEnsure, (*Host).portProxyEnsure),
		v.PortProxyRemove.Name:   on(v.PortProxyRemove, (*Host).portProxyRemove),
		v.FileProbe.Name:         on(v.FileProbe, (*Host).fileProbe),
		v.FileReceive.Name:       streaming(v.FileReceive, (*Host).fileReceive),
		v.FileSend.Name:          streaming(v.FileSend, (*Host).fileSend),
		v.FilesRemove.Name:       on(v.FilesRemove, (*Host).filesRemove),
		v.HostExec.Name:          streaming(v.HostExec, (*Host).hostExec),
		v.CaptureStart.Name:      on(v.CaptureStart, (*Host).captureStart),
		v.CaptureStop.Name:       on(v.CaptureStop, (*Host).captureStop),
		v.GuestInvoke.Name:       on(v.GuestInvoke, (*Host).guestInvoke),
		v.GuestPush.Name:         on(v.GuestPush, (*Host).guestPush),
		v.GuestPull.Name:         on(v.GuestPull, (*Host).guestPull),
	}
}

// needsHyperV says whether a verb's script uses Hyper-V's own cmdlets.
func needsHyperV(verb string) bool {
	return !slices.Contains([]string{
		"host-check", "file-probe", "file-receive", "file-send", "files-remove",
		"host-exec", "portproxy-ensure", "portproxy-remove", "capture-stop",
	}, verb)
}
