// Package guestscripts holds what the Windows role asks of a guest: one
// PowerShell script a verb, and the Go types of its parameters and its result.
// They run inside the guest, over PowerShell Direct or WinRM; how they get
// there is the transport's matter. All verbs are idempotent but Exec, Restart
// and the captures.
package guestscripts

import (
	"embed"
	"fmt"

	"l4lab/lab/powershell"
)

//go:embed *.ps1
var files embed.FS

// Error codes of these verbs.
const (
	NotFound = "notFound"
	// Foreign: a service or rule of that name was not made by the lab.
	Foreign = "foreign"
	// InstallFailed: an installer ended with an error; Target has its log's end.
	InstallFailed = "installFailed"
	InUse         = "inUse"
)

func verb[P, R any](name string, repeatable bool, codes ...string) powershell.Verb[P, R] {
	text, err := files.ReadFile(name + ".ps1")
	if err != nil {
		panic(fmt.Sprintf("script %s is not compiled in: %v", name, err))
	}
	return powershell.Verb[P, R]{Script: powershell.Script{Name: name, Text: string(text), Repeatable: repeatable}, Codes: codes}
}

// Verbs are the guest's verbs, ready to run.
type Verbs struct {
	Facts             powershell.Verb[None, FactsResult]
	AdapterEnsure     powershell.Verb[AdapterEnsureParams, Changed]
	VIPsEnsure        powershell.Verb[VIPsEnsureParams, Changed]
	FirewallEnsure    powershell.Verb[FirewallEnsureParams, Changed]
	PortsEnsure       powershell.Verb[PortsEnsureParams, Changed]
	ClockEnsure       powershell.Verb[ClockEnsureParams, Changed]
	TestSigningEnsure powershell.Verb[None, RebootResult]
	MSIEnsure         powershell.Verb[MSIEnsureParams, RebootResult]
	XDPEnsure         powershell.Verb[XDPEnsureParams, RebootResult]
	ServiceEnsure     powershell.Verb[ServiceEnsureParams, Changed]
	ServiceRemove     powershell.Verb[ServiceRemoveParams, Changed]
	IISEnsure         powershell.Verb[IISEnsureParams, RebootResult]
	Exec              powershell.Verb[ExecParams, ExecResult]
	FileProbe         powershell.Verb[FileParams, FileProbeResult]
	FileRead          powershell.Verb[FileReadParams, FileReadResult]
	FileWrite         powershell.Verb[FileWriteParams, Changed]
	FileRemove        powershell.Verb[FileParams, Changed]
	SetupClean        powershell.Verb[None, Changed]
	Restart           powershell.Verb[None, None]
	GuestCaptureStart powershell.Verb[None, Changed]
	GuestCaptureStop  powershell.Verb[GuestCaptureStopParams, GuestCaptureStopResult]
}

// New returns the guest's verbs.
func New() Verbs {
	return Verbs{
		Facts:             verb[None, FactsResult]("facts", true),
		AdapterEnsure:     verb[AdapterEnsureParams, Changed]("adapter-ensure", true, NotFound),
		VIPsEnsure:        verb[VIPsEnsureParams, Changed]("vips-ensure", true, NotFound),
		FirewallEnsure:    verb[FirewallEnsureParams, Changed]("firewall-ensure", true, Foreign),
		PortsEnsure:       verb[PortsEnsureParams, Changed]("ports-ensure", true),
		ClockEnsure:       verb[ClockEnsureParams, Changed]("clock-ensure", true),
		TestSigningEnsure: verb[None, RebootResult]("testsigning-ensure", true),
		MSIEnsure:         verb[MSIEnsureParams, RebootResult]("msi-ensure", true, NotFound, InstallFailed),
		XDPEnsure:         verb[XDPEnsureParams, RebootResult]("xdp-ensure", true, NotFound, InstallFailed),
		ServiceEnsure:     verb[ServiceEnsureParams, Changed]("service-ensure", true, NotFound, Foreign),
		ServiceRemove:     verb[ServiceRemoveParams, Changed]("service-remove", true, Foreign),
		IISEnsure:         verb[IISEnsureParams, RebootResult]("iis-ensure", true, InstallFailed),
		Exec:              verb[ExecParams, ExecResult]("exec", false, NotFound),
		FileProbe:         verb[FileParams, FileProbeResult]("file-probe", true),
		FileRead:          verb[FileReadParams, FileReadResult]("file-read", true, NotFound),
		FileWrite:         verb[FileWriteParams, Changed]("file-write", true),
		FileRemove:        verb[FileParams, Changed]("file-remove", true, InUse),
		SetupClean:        verb[None, Changed]("setup-clean", true),
		Restart:           verb[None, None]("restart", false),
		GuestCaptureStart: verb[None, Changed]("guest-capture-start", false, InUse),
		GuestCaptureStop:  verb[GuestCaptureStopParams, GuestCaptureStopResult]("guest-capture-stop", false, NotFound),
	}
}

// Contracts returns the rows of all verbs by hash.
func (v Verbs) Contracts() (powershell.Contracts, error) {
	return powershell.NewContracts(
		v.Facts.Contract(), v.AdapterEnsure.Contract(), v.VIPsEnsure.Contract(), v.FirewallEnsure.Contract(),
		v.PortsEnsure.Contract(), v.ClockEnsure.Contract(), v.TestSigningEnsure.Contract(), v.MSIEnsure.Contract(), v.XDPEnsure.Contract(), v.ServiceEnsure.Contract(),
		v.ServiceRemove.Contract(), v.IISEnsure.Contract(), v.Exec.Contract(), v.FileProbe.Contract(), v.FileRead.Contract(),
		v.FileWrite.Contract(), v.FileRemove.Contract(), v.SetupClean.Contract(), v.Restart.Contract(),
		v.GuestCaptureStart.Contract(), v.GuestCaptureStop.Contract(),
	)
}
