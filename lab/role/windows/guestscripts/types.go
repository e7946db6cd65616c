package guestscripts

// None is the parameters or the result of a verb that has none.
type None struct{}

// Changed says whether a verb changed anything, and what, a short phrase each.
type Changed struct {
	Changed bool     `json:"changed"`
	What    []string `json:"what"`
}

// RebootResult says, too, whether the guest must be restarted before it counts.
type RebootResult struct {
	Changed
	Reboot bool `json:"reboot"`
}

// FactsResult is what a guest is and has.
type FactsResult struct {
	Computer string `json:"computer"`
	OS       string `json:"os"`
	Version  string `json:"version"`
	// BootTime is when the guest last started, RFC 3339: a restart changes it.
	BootTime string `json:"bootTime"`
	// TestSigning is what the running system was started with.
	TestSigning bool `json:"testSigning"`
	// EBPF is the installed version of eBPF for Windows, XDP that of XDP for
	// Windows, "" for none.
	EBPF     string         `json:"ebpf"`
	XDP      string         `json:"xdp"`
	Adapters []AdapterFacts `json:"adapters"`
	// VIPs are the loopback's addresses but 127.0.0.0/8.
	VIPs []string `json:"vips"`
	// Services are those that the lab made.
	Services []ServiceFacts `json:"services"`
	// DynamicPortFirst and DynamicPortCount are TCP's own range of source ports.
	DynamicPortFirst int `json:"dynamicPortFirst"`
	DynamicPortCount int `json:"dynamicPortCount"`
}

// AdapterFacts is a network adapter.
type AdapterFacts struct {
	Name           string   `json:"name"`
	InterfaceIndex int      `json:"interfaceIndex"`
	MAC            string   `json:"mac"`
	MTU            int      `json:"mtu"`
	Addresses      []string `json:"addresses"` // "20.1.1.10/24"
	WeakHost       bool     `json:"weakHost"`
}

// ServiceFacts is a service that the lab made.
type ServiceFacts struct {
	Name  string `json:"name"`
	State string `json:"state"` // Running, Stopped, …
	PID   int    `json:"pid"`
	// Spec is what it was made from (role.Agent.Spec and the like).
	Spec string `json:"spec"`
	// ExitCode is that of a service that stopped by itself.
	ExitCode int `json:"exitCode"`
}

// AdapterEnsureParams give the adapter with this MAC its address, and turn off
// what merges or leaves unfinished the frames that XDP programs and captures
// see: large send offload, receive coalescing, checksum offload.
type AdapterEnsureParams struct {
	MAC          string `json:"mac"` // "00-15-5D-01-01-01"
	Address      string `json:"address"`
	PrefixLength int    `json:"prefixLength"`
	MTU          int    `json:"mtu"`
}

// VIPsEnsureParams are all addresses that the loopback shall have besides
// 127.0.0.0/8, each /32; weak host send and receive are turned on on it and on
// the adapter with this MAC.
type VIPsEnsureParams struct {
	Addresses []string `json:"addresses"`
	MAC       string   `json:"mac"`
	// Loopback is "builtin" (Loopback Pseudo-Interface 1) or "kmtest" (a KM-TEST
	// adapter that the image has already).
	Loopback string `json:"loopback"`
}

// FirewallEnsureParams allow traffic to ports from anywhere.
type FirewallEnsureParams struct {
	// Name is the rule's, which the lab owns: "l4lab-page".
	Name string `json:"name"`
	TCP  []int  `json:"tcp"`
	UDP  []int  `json:"udp"`
}

// PortsEnsureParams set the system's own range of source ports, of TCP and UDP
// over IPv4. Windows wants First to be 1025 or more and Count 255 or more.
type PortsEnsureParams struct {
	First int `json:"first"`
	Count int `json:"count"`
}

// ClockEnsureParams set the clock, when it is more than a second off.
type ClockEnsureParams struct {
	// Seconds are those since 1970, UTC.
	Seconds int64 `json:"seconds"`
}

// MSIEnsureParams install a package silently.
type MSIEnsureParams struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	// Product is the name under which it is found once installed: "eBPF for Windows".
	Product    string   `json:"product"`
	Properties []string `json:"properties"` // "ADDLOCAL=eBPF_Runtime_Components,…"
}

// XDPEnsureParams install XDP for Windows from a folder with its set-up script.
type XDPEnsureParams struct {
	Folder string `json:"folder"`
}

// ServiceEnsureParams describe a service. One of another spec, or one that
// stopped, is ended and started anew.
type ServiceEnsureParams struct {
	Name      string   `json:"name"`
	Program   string   `json:"program"`
	Arguments []string `json:"arguments"`
	// Spec is kept with the service and comes back in the facts.
	Spec string `json:"spec"`
}

// ServiceRemoveParams name a service that is ended and removed.
type ServiceRemoveParams struct {
	Name string `json:"name"`
}

// IISEnsureParams have IIS serve a static page.
type IISEnsureParams struct {
	// Page is index.html, Whoami the answer to /whoami, both base64 of UTF-8.
	Page   string `json:"page"`
	Whoami string `json:"whoami"`
	Name   string `json:"name"` // the value of X-Backend
	Ports  []int  `json:"ports"`
}

// ExecParams run a program to its end. What it prints is in the result, up to
// 16 MiB in all; its standard input is Stdin, base64.
type ExecParams struct {
	Program   string   `json:"program"`
	Arguments []string `json:"arguments"`
	Stdin     string   `json:"stdin"`
	// Seconds bound it; 0: 60.
	Seconds int `json:"seconds"`
}

// ExecResult is how it ended; Stdout and Stderr are base64.
type ExecResult struct {
	ExitCode int    `json:"exitCode"`
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	TimedOut bool   `json:"timedOut"`
}

// FileParams name a file of the guest.
type FileParams struct {
	Path string `json:"path"`
}

// FileProbeResult is what was found of it.
type FileProbeResult struct {
	Exists bool   `json:"exists"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// FileReadParams read at most Bytes from Offset on.
type FileReadParams struct {
	Path   string `json:"path"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
}

// FileReadResult is the piece, base64, and the file's size.
type FileReadResult struct {
	Data  string `json:"data"`
	Bytes int64  `json:"bytes"`
}

// FileWriteParams write a small file whole, or not at all; Data is base64.
type FileWriteParams struct {
	Path string `json:"path"`
	Data string `json:"data"`
}

// GuestCaptureStopParams say where the capture's file goes.
type GuestCaptureStopParams struct {
	Path string `json:"path"`
}

// GuestCaptureStopResult is how it went.
type GuestCaptureStopResult struct {
	Dropped int64 `json:"dropped"`
}
