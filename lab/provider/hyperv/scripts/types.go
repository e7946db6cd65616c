package scripts

import "encoding/json"

// Changed says whether a verb changed anything, and what.
type Changed struct {
	Changed bool `json:"changed"`
	// What says what was changed, a short phrase each: "mac", "memory 2048 -> 4096 MB".
	What []string `json:"what"`
}

// Removed says whether there was anything to remove.
type Removed struct {
	Removed bool `json:"removed"`
}

// HostCheckParams ask for the facts that doctor shows.
type HostCheckParams struct {
	// Folder is the storage folder; its drive's free space is wanted.
	Folder string `json:"folder"`
	// Names are those of the switch and the virtual machines that the lab would
	// make; Mark is the lab's.
	Names []string `json:"names"`
	Mark  string   `json:"mark"`
}

// HostCheckResult is what the host is and has.
type HostCheckResult struct {
	// Simulated is what a host is that runs no Hyper-V and says so; a real one
	// has no such property.
	Simulated bool   `json:"simulated,omitempty"`
	OS        string `json:"os"`      // "Microsoft Windows Server 2022 Datacenter"
	Version   string `json:"version"` // "10.0.20348"
	// PowerShell is the version that ran the script, Edition Desktop or Core.
	PowerShell string `json:"powerShell"`
	Edition    string `json:"edition"`
	// Elevated: the user is an administrator, or in Hyper-V Administrators.
	Elevated bool `json:"elevated"`
	// HyperV: the feature is enabled and the vmms service runs. Module is the
	// Hyper-V module's version, "" when it is not installed.
	HyperV bool   `json:"hyperV"`
	Module string `json:"module"`
	// FreeMemoryMB and FreeDiskMB are what is left; Processors are logical ones.
	FreeMemoryMB int64 `json:"freeMemoryMB"`
	FreeDiskMB   int64 `json:"freeDiskMB"`
	Processors   int   `json:"processors"`
	// SSHServer is the state of the sshd service: Running, Stopped, or "" when
	// it is not installed.
	SSHServer string `json:"sshServer"`
	// Pktmon says whether pktmon.exe with etl2pcap is there (Windows 10 2004,
	// Windows Server 2022 and later).
	Pktmon bool `json:"pktmon"`
	// Foreign lists switches and machines of the wanted names without the mark:
	// "switch l4lab", "machine l4lab-be1".
	Foreign []string `json:"foreign"`
}

// LabObserveParams ask for all that bears the lab's mark.
type LabObserveParams struct {
	Mark   string   `json:"mark"`
	Switch string   `json:"switch"`
	Names  []string `json:"names"`
	Folder string   `json:"folder"`
}

// LabObserveResult is what of a lab exists.
type LabObserveResult struct {
	// Switch is null where there is none.
	Switch   *SwitchFacts `json:"switch"`
	Machines []VMFacts    `json:"machines"`
	// Foreign lists things of the lab's names that do not bear its mark.
	Foreign []string `json:"foreign"`
	// PortProxies are those that the lab's folder remembers and that exist.
	PortProxies []PortProxyParams `json:"portProxies"`
}

// SwitchFacts is what was found of the switch and the host's adapter on it.
type SwitchFacts struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	Type string `json:"type"` // Internal
	// The host's own adapter, "vEthernet (NAME)".
	InterfaceIndex int    `json:"interfaceIndex"`
	MAC            string `json:"mac"` // "00-15-5D-…", as Windows writes it
	MTU            int    `json:"mtu"`
	// Addresses are "20.1.1.100/24", Routes those of the host through this adapter.
	Addresses []string    `json:"addresses"`
	Routes    []HostRoute `json:"routes"`
}

// HostRoute is a route of the host through the lab's adapter.
type HostRoute struct {
	Destination string `json:"destination"` // "40.1.1.1/32"
	Via         string `json:"via"`
}

// VMFacts is what was found of a virtual machine.
type VMFacts struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	// Node is the lab's name of the machine, from its mark.
	Node  string `json:"node"`
	State string `json:"state"` // Running, Off, Saved, Paused, Starting, Stopping, …
	// Heartbeat is the integration service's word: OkApplicationsHealthy,
	// OkApplicationsUnknown, NoContact, "" when it is off.
	Heartbeat     string   `json:"heartbeat"`
	UptimeSeconds int64    `json:"uptimeSeconds"`
	Generation    int      `json:"generation"`
	MemoryMB      int64    `json:"memoryMB"`
	Processors    int      `json:"processors"`
	MAC           string   `json:"mac"`
	Switch        string   `json:"switch"`
	Spoofing      bool     `json:"spoofing"`
	SecureBoot    bool     `json:"secureBoot"`
	Disks         []string `json:"disks"`
	DVD           string   `json:"dvd"`
	Checkpoints   []string `json:"checkpoints"`
}

// SwitchEnsureParams describe an internal switch.
type SwitchEnsureParams struct {
	Name string `json:"name"`
	Mark string `json:"mark"`
}

// SwitchEnsureResult is the switch as it is now.
type SwitchEnsureResult struct {
	Changed
	Switch SwitchFacts `json:"switch"`
}

// SwitchRemoveParams name a switch.
type SwitchRemoveParams struct {
	Name string `json:"name"`
	Mark string `json:"mark"`
}

// HostAddressEnsureParams give the host's adapter its address and MTU.
type HostAddressEnsureParams struct {
	Switch string `json:"switch"`
	Mark   string `json:"mark"`
	// Addresses are all that the adapter shall have, "20.1.1.100/24".
	Addresses []string `json:"addresses"`
	MTU       int      `json:"mtu"`
}

// HostAddressEnsureResult is the adapter as it is now.
type HostAddressEnsureResult struct {
	Changed
	Switch SwitchFacts `json:"switch"`
}

// HostRoutesEnsureParams are all routes that the host shall have through the
// lab's adapter (besides the connected one), in the active store only.
type HostRoutesEnsureParams struct {
	Switch string      `json:"switch"`
	Mark   string      `json:"mark"`
	Routes []HostRoute `json:"routes"`
}

// ImageProbeParams name a disk image on the host.
type ImageProbeParams struct {
	Path string `json:"path"`
	// Hash says whether the file's SHA-256 is wanted, which takes a while.
	Hash bool `json:"hash"`
}

// ImageProbeResult is what was found of it.
type ImageProbeResult struct {
	Exists bool   `json:"exists"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Format string `json:"format"` // VHD, VHDX
	// Type is Fixed, Dynamic or Differencing; Attached says that it is in use.
	Type     string `json:"type"`
	Attached bool   `json:"attached"`
}

// DiskEnsureParams describe a differencing disk; its parent is never written to.
type DiskEnsureParams struct {
	Path   string `json:"path"`
	Parent string `json:"parent"`
	// Folder is the lab's; Path lies in it.
	Folder string `json:"folder"`
}

// UnattendWriteParams put an answer file into an offline Windows disk.
type UnattendWriteParams struct {
	Disk string `json:"disk"`
	// Content is the file's text in base64 of UTF-8: it holds a password and
	// shows in no list of processes.
	Content string `json:"content"`
}

// VMEnsureParams describe a virtual machine. It is made off, and changed only
// while it is off where Hyper-V wants that.
type VMEnsureParams struct {
	Name string `json:"name"`
	// Mark is the lab's, Node the machine's name in the lab: both go to Notes.
	Mark       string `json:"mark"`
	Node       string `json:"node"`
	Folder     string `json:"folder"`
	Generation int    `json:"generation"`
	MemoryMB   int64  `json:"memoryMB"`
	Processors int    `json:"processors"`
	Disk       string `json:"disk"`
	// DVD is an ISO on the host, "" for none.
	DVD    string `json:"dvd"`
	Switch string `json:"switch"`
	MAC    string `json:"mac"` // "00155D010101"
	// Spoofing lets the machine send and get frames of other addresses.
	Spoofing bool `json:"spoofing"`
	// SecureBoot is Off, MicrosoftWindows or MicrosoftUEFICertificateAuthority;
	// generation 2 only.
	SecureBoot string `json:"secureBoot"`
}

// VMEnsureResult is the machine as it is now.
type VMEnsureResult struct {
	Changed
	Machine VMFacts `json:"machine"`
}

// VMParams name a virtual machine by its id; the mark must be its own.
type VMParams struct {
	ID   string `json:"id"`
	Mark string `json:"mark"`
}

// VMStopParams stop a machine: by its own shutdown, or, after Seconds or when
// Seconds is 0, by turning it off.
type VMStopParams struct {
	ID      string `json:"id"`
	Mark    string `json:"mark"`
	Seconds int    `json:"seconds"`
}

// VMStateResult is what a machine does now.
type VMStateResult struct {
	State         string `json:"state"`
	Heartbeat     string `json:"heartbeat"`
	UptimeSeconds int64  `json:"uptimeSeconds"`
}

// VMRemoveParams remove a machine with its checkpoints, disks and folder, in
// any half-made state. By name, so that what has no id yet goes, too.
type VMRemoveParams struct {
	Name   string `json:"name"`
	Node   string `json:"node"`
	Mark   string `json:"mark"`
	Folder string `json:"folder"`
}

// CheckpointParams name a checkpoint of a machine.
type CheckpointParams struct {
	ID   string `json:"id"`
	Mark string `json:"mark"`
	Name string `json:"name"`
}

// PortProxyParams forward a port of the host to one of a guest (netsh interface
// portproxy, v4tov4). ListenAddress "" is the address that WinRM was reached at.
type PortProxyParams struct {
	ListenAddress  string `json:"listenAddress"`
	ListenPort     int    `json:"listenPort"`
	ConnectAddress string `json:"connectAddress"`
	ConnectPort    int    `json:"connectPort"`
	// Folder is the lab's, which remembers what was added.
	Folder string `json:"folder"`
}

// PortProxyRemoveParams remove the forwards that the lab's folder remembers.
type PortProxyRemoveParams struct {
	Folder string `json:"folder"`
}

// FilesRemoveParams remove files or folders below the lab's folder; an empty
// Paths removes the folder itself. A folder without the lab's mark file is foreign.
type FilesRemoveParams struct {
	Folder string   `json:"folder"`
	Mark   string   `json:"mark"`
	Paths  []string `json:"paths"`
}

// HostExecParams run a program on the host, which is the lab's client. Its
// streams are the call's.
type HostExecParams struct {
	// Program is a full path, or a name that the host looks for in its PATH; it
	// is taken literally.
	Program   string   `json:"program"`
	Arguments []string `json:"arguments"`
	// Stdin says whether the program reads the call's standard input.
	Stdin bool `json:"stdin"`
}

// ExecResult is how a program ended.
type ExecResult struct {
	ExitCode int `json:"exitCode"`
}

// CaptureStartParams start a packet capture on the host (pktmon), of which
// there can be one at a time, at the switch ports of these machines and, when
// Host is set, of the host's own adapter.
type CaptureStartParams struct {
	Mark   string   `json:"mark"`
	Switch string   `json:"switch"`
	IDs    []string `json:"ids"`
	Host   bool     `json:"host"`
	Folder string   `json:"folder"`
}

// CaptureStopParams end it.
type CaptureStopParams struct {
	Mark   string `json:"mark"`
	Folder string `json:"folder"`
}

// CaptureStopResult are the files, one a place.
type CaptureStopResult struct {
	Files []CaptureFile `json:"files"`
}

// CaptureFile is what one place saw, as pcapng.
type CaptureFile struct {
	// ID is the machine's, "" for the host's own adapter.
	ID   string `json:"id"`
	Path string `json:"path"`
	// Dropped frames were not recorded.
	Dropped int64 `json:"dropped"`
}

// Credential is a guest's user. It travels on standard input only.
type Credential struct {
	User     string `json:"user"`
	Password string `json:"password"`
}

// GuestInvokeParams run a script in a Windows guest by PowerShell Direct.
type GuestInvokeParams struct {
	ID         string     `json:"id"`
	Mark       string     `json:"mark"`
	Credential Credential `json:"credential"`
	// Script is its text in base64 of UTF-8, Input its parameters.
	Script string          `json:"script"`
	Input  json.RawMessage `json:"input"`
}

// GuestInvokeResult is what the guest's script returned, or its error.
type GuestInvokeResult struct {
	OK     bool            `json:"ok"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *GuestError     `json:"error,omitempty"`
}

// GuestError is a guest script's error.
type GuestError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Target  string `json:"target"`
}

// GuestCopyParams copy a file between the host and a Windows guest
// (Copy-Item -ToSession, -FromSession).
type GuestCopyParams struct {
	ID         string     `json:"id"`
	Mark       string     `json:"mark"`
	Credential Credential `json:"credential"`
	HostPath   string     `json:"hostPath"`
	GuestPath  string     `json:"guestPath"`
	// SHA256 is the file's; a copy that is there already is left alone.
	SHA256 string `json:"sha256"`
}
