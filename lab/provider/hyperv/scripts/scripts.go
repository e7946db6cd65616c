// Package scripts holds what the Hyper-V provider asks of its host: one
// PowerShell script a verb, and for each the Go types of its parameters and its
// result. The types are the contract: tests hold each script's param() block
// and help against them, and the simulated host answers by them.
//
// All verbs are idempotent. Every object that a verb makes bears the lab's
// mark (the Notes of switches and virtual machines); a thing of the wanted name
// without the mark is error "foreign" and stays as it is.
package scripts

import (
	"embed"
	"fmt"

	"l4lab/lab/powershell"
	"l4lab/lab/powershell/transfer"
)

//go:embed *.ps1
var files embed.FS

// Error codes that several verbs share.
const (
	// Foreign: a thing of that name exists and does not bear the mark.
	Foreign = "foreign"
	// NotFound: the thing that the verb acts on is not there.
	NotFound = transfer.NotFound
	// InUse: the thing cannot be changed or removed while others use it.
	InUse = "inUse"
	// NoMemory and NoSpace: the host has too little of it.
	NoMemory = "noMemory"
	NoSpace  = transfer.NoSpace
	// HashMismatch: a file's SHA-256 is not the expected one.
	HashMismatch = transfer.HashMismatch
	// GuestAuth: the guest refused the credentials. GuestNotReady: it does not
	// answer PowerShell Direct yet. GuestFailed: the script ran in the guest and failed.
	GuestAuth     = "guestAuth"
	GuestNotReady = "guestNotReady"
	// ReadOnly: verbs that change nothing are repeatable whatever happens.
)

// must reads a script that is compiled in; what is missing is caught by any test of this package.
func script(name string, repeatable bool) powershell.Script {
	text, err := files.ReadFile(name + ".ps1")
	if err != nil {
		panic(fmt.Sprintf("script %s is not compiled in: %v", name, err))
	}
	return powershell.Script{Name: name, Text: string(text), Repeatable: repeatable}
}

func verb[P, R any](name string, repeatable bool, codes ...string) powershell.Verb[P, R] {
	return powershell.Verb[P, R]{Script: script(name, repeatable), Codes: codes}
}

// None is the parameters or the result of a verb that has none.
type None struct{}

// Verbs are the host's verbs, ready to run. New returns them; a value, so that
// nothing of the package is state.
type Verbs struct {
	// Verbs move files to and from the host.
	transfer.Verbs

	HostCheck         powershell.Verb[HostCheckParams, HostCheckResult]
	LabObserve        powershell.Verb[LabObserveParams, LabObserveResult]
	SwitchEnsure      powershell.Verb[SwitchEnsureParams, SwitchEnsureResult]
	SwitchRemove      powershell.Verb[SwitchRemoveParams, Removed]
	HostAddressEnsure powershell.Verb[HostAddressEnsureParams, HostAddressEnsureResult]
	HostRoutesEnsure  powershell.Verb[HostRoutesEnsureParams, Changed]
	ImageProbe        powershell.Verb[ImageProbeParams, ImageProbeResult]
	DiskEnsure        powershell.Verb[DiskEnsureParams, Changed]
	UnattendWrite     powershell.Verb[UnattendWriteParams, Changed]
	VMEnsure          powershell.Verb[VMEnsureParams, VMEnsureResult]
	VMStart           powershell.Verb[VMParams, Changed]
	VMStop            powershell.Verb[VMStopParams, Changed]
	VMState           powershell.Verb[VMParams, VMStateResult]
	VMRemove          powershell.Verb[VMRemoveParams, Removed]
	SeedEject         powershell.Verb[VMParams, Changed]
	CheckpointCreate  powershell.Verb[CheckpointParams, Changed]
	CheckpointRestore powershell.Verb[CheckpointParams, Changed]
	CheckpointRemove  powershell.Verb[CheckpointParams, Removed]
	PortProxyEnsure   powershell.Verb[PortProxyParams, Changed]
	PortProxyRemove   powershell.Verb[PortProxyRemoveParams, Removed]
	FilesRemove       powershell.Verb[FilesRemoveParams, Removed]
	HostExec          powershell.Verb[HostExecParams, ExecResult]
	CaptureStart      powershell.Verb[CaptureStartParams, Changed]
	CaptureStop       powershell.Verb[CaptureStopParams, CaptureStopResult]
	GuestInvoke       powershell.Verb[GuestInvokeParams, GuestInvokeResult]
	GuestPush         powershell.Verb[GuestCopyParams, Changed]
	GuestPull         powershell.Verb[GuestCopyParams, Changed]
}

// New returns the host's verbs.
func New() Verbs {
	return Verbs{
		Verbs:             transfer.NewVerbs(),
		HostCheck:         verb[HostCheckParams, HostCheckResult]("host-check", true),
		LabObserve:        verb[LabObserveParams, LabObserveResult]("lab-observe", true),
		SwitchEnsure:      verb[SwitchEnsureParams, SwitchEnsureResult]("switch-ensure", true, Foreign),
		SwitchRemove:      verb[SwitchRemoveParams, Removed]("switch-remove", true, Foreign, InUse),
		HostAddressEnsure: verb[HostAddressEnsureParams, HostAddressEnsureResult]("host-address-ensure", true, NotFound, Foreign),
		HostRoutesEnsure:  verb[HostRoutesEnsureParams, Changed]("host-routes-ensure", true, NotFound),
		ImageProbe:        verb[ImageProbeParams, ImageProbeResult]("image-probe", true),
		DiskEnsure:        verb[DiskEnsureParams, Changed]("disk-ensure", true, NotFound, Foreign, NoSpace),
		UnattendWrite:     verb[UnattendWriteParams, Changed]("unattend-write", true, NotFound, InUse),
		VMEnsure:          verb[VMEnsureParams, VMEnsureResult]("vm-ensure", true, Foreign, NotFound),
		VMStart:           verb[VMParams, Changed]("vm-start", true, NotFound, Foreign, NoMemory),
		VMStop:            verb[VMStopParams, Changed]("vm-stop", true, NotFound, Foreign),
		VMState:           verb[VMParams, VMStateResult]("vm-state", true, NotFound, Foreign),
		VMRemove:          verb[VMRemoveParams, Removed]("vm-remove", true, Foreign),
		SeedEject:         verb[VMParams, Changed]("seed-eject", true, NotFound, Foreign),
		CheckpointCreate:  verb[CheckpointParams, Changed]("checkpoint-create", true, NotFound, Foreign, NoSpace),
		CheckpointRestore: verb[CheckpointParams, Changed]("checkpoint-restore", true, NotFound, Foreign),
		CheckpointRemove:  verb[CheckpointParams, Removed]("checkpoint-remove", true, NotFound, Foreign),
		PortProxyEnsure:   verb[PortProxyParams, Changed]("portproxy-ensure", true, Foreign),
		PortProxyRemove:   verb[PortProxyRemoveParams, Removed]("portproxy-remove", true),
		FilesRemove:       verb[FilesRemoveParams, Removed]("files-remove", true, Foreign),
		HostExec:          verb[HostExecParams, ExecResult]("host-exec", false, NotFound),
		CaptureStart:      verb[CaptureStartParams, Changed]("capture-start", false, InUse, NotFound),
		CaptureStop:       verb[CaptureStopParams, CaptureStopResult]("capture-stop", false, NotFound),
		GuestInvoke:       verb[GuestInvokeParams, GuestInvokeResult]("guest-invoke", false, NotFound, Foreign, GuestAuth, GuestNotReady),
		GuestPush:         verb[GuestCopyParams, Changed]("guest-push", true, NotFound, Foreign, GuestAuth, GuestNotReady, HashMismatch),
		GuestPull:         verb[GuestCopyParams, Changed]("guest-pull", true, NotFound, Foreign, GuestAuth, GuestNotReady),
	}
}

// Contracts returns the rows of all verbs by hash.
func (v Verbs) Contracts() (powershell.Contracts, error) {
	return powershell.NewContracts(append(v.List(),
		v.HostCheck.Contract(), v.LabObserve.Contract(), v.SwitchEnsure.Contract(), v.SwitchRemove.Contract(),
		v.HostAddressEnsure.Contract(), v.HostRoutesEnsure.Contract(), v.ImageProbe.Contract(), v.DiskEnsure.Contract(),
		v.UnattendWrite.Contract(), v.VMEnsure.Contract(), v.VMStart.Contract(), v.VMStop.Contract(), v.VMState.Contract(),
		v.VMRemove.Contract(), v.SeedEject.Contract(), v.CheckpointCreate.Contract(), v.CheckpointRestore.Contract(),
		v.CheckpointRemove.Contract(), v.PortProxyEnsure.Contract(), v.PortProxyRemove.Contract(),
		v.FilesRemove.Contract(), v.HostExec.Contract(),
		v.CaptureStart.Contract(), v.CaptureStop.Contract(), v.GuestInvoke.Contract(), v.GuestPush.Contract(), v.GuestPull.Contract(),
	)...)
}
