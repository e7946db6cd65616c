package hvsim

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"

	"l4lab/lab/powershell"
	"l4lab/topology"
)

// Guests brings the model's switches and virtual machines to life: in network
// namespaces (package netnsguests), or not at all, for tests of the wire and
// the model that need no root. The model calls it only as Hyper-V's rules allow.
type Guests interface {
	// EnsureSwitch makes the segment with the host's own adapter on it. It
	// returns the adapter's address. Switches are named by their IDs here and
	// below: names of Hyper-V's switches need not be unique.
	EnsureSwitch(ctx context.Context, name string) (net.HardwareAddr, error)
	// RemoveSwitch removes it.
	RemoveSwitch(ctx context.Context, name string) error
	// SetHost gives the host's adapter all of its addresses, its MTU and its
	// routes; those of other switches stay.
	SetHost(ctx context.Context, network HostNetwork) error

	// Start turns a machine on and returns at once; State says how far it came.
	Start(ctx context.Context, m Machine) error
	// Stop turns a machine off, by its own shutdown when orderly is set. What
	// was written to its disk stays; what runs in it ends.
	Stop(ctx context.Context, id string, orderly bool) error
	// Remove forgets a machine that is off, with its disk.
	Remove(ctx context.Context, id string) error
	// State returns how a machine is.
	State(id string) GuestState
	// Save and Restore keep a disk's state under a name (checkpoints); the
	// machine is off while Restore runs.
	Save(ctx context.Context, id, checkpoint string) error
	Restore(ctx context.Context, id, checkpoint string) error

	// Invoke runs a guest's verb as PowerShell Direct does. The error is a
	// *powershell.ScriptError when the script failed in the guest; it matches
	// ErrGuestAuth or ErrGuestNotReady when it did not run.
	Invoke(ctx context.Context, id string, as Login, verb powershell.Contract, input json.RawMessage) (any, error)
	// CopyIn and CopyOut copy files between the host's file system (real paths
	// here) and a Windows guest's (Windows paths).
	CopyIn(ctx context.Context, id string, as Login, from, to string) error
	CopyOut(ctx context.Context, id string, as Login, from, to string) error

	// HostExec runs a program of the host, which is the lab's client, in the
	// host's network. Program is a real path: lbagent.exe, for which
	// its Linux build stands in, or what Curl returned. Argv are its
	// arguments, without its own name.
	HostExec(ctx context.Context, program string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (exitCode int, err error)
	// HostDial connects from the host's network: what its SSH server and its
	// port proxies forward.
	HostDial(ctx context.Context, network, address string) (net.Conn, error)
	// Capture records at switch ports ("" is the host's own adapter) until the
	// returned function is called, which writes one pcapng file for each, at the
	// path that it is asked for.
	Capture(ctx context.Context, ids []string) (stop func(path func(id string) string) (dropped map[string]int64, err error), err error)
	// Close ends and removes everything.
	Close(ctx context.Context) error
}

// HostNetwork is what the host's adapter on a switch has.
type HostNetwork struct {
	Switch    string
	Addresses []netip.Prefix
	MTU       int
	Routes    map[netip.Prefix]netip.Addr
}

// Machine is a virtual machine that is turned on.
type Machine struct {
	ID, Name string
	// OS is what its disk's first parent, an image of the simulation's, says.
	OS     topology.OS
	Switch string
	MAC    net.HardwareAddr
	// Spoofing off: the switch drops frames with another source address.
	Spoofing bool
	// Image is the real path of that image where it is a disk that boots
	// (Options.LinuxDisk), "" where it is one of the simulation's.
	Image string
	// Generation 2 boots by UEFI, 1 by a BIOS.
	Generation int
	// MemoryMB and Processors are what the machine has.
	MemoryMB   int64
	Processors int
	// Dir is a real folder that stands for the machine's disk: what a guest
	// writes goes there, and nothing else remembers it.
	Dir string
	// Seed is the real path of the ISO in its drive, "" for none. Linux guests
	// configure themselves from it (cloud-init NoCloud).
	Seed string
	// Unattend is the answer file in a Windows disk, nil for none.
	Unattend []byte
	// SecureBoot on: a guest refuses test signing.
	SecureBoot bool
}

// Login is a guest's user.
type Login struct{ User, Password string }

// GuestState is how a machine is.
type GuestState struct {
	// Running: it is on. Heartbeat is Hyper-V's word for the integration service's.
	Running   bool
	Heartbeat string
}
