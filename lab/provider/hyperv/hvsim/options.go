package hvsim

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"l4lab/lab/provider/hyperv/hvsim/wsman"
	"l4lab/topology"
)

// Options describe a simulated host. The zero value of every field but Dir has
// a meaning.
type Options struct {
	// Dir holds all of the host's state: its drives, its memory of switches and
	// machines, its certificate, keys and password. It is made when missing; a
	// Dir that an earlier host left is that host, restarted.
	Dir string
	// Guests brings machines to life. Nil: the built-in ones, which carry no
	// packets and need no root.
	Guests Guests
	// Users may come in over WinRM, the first being labctl's. Empty: one named
	// DefaultUser, with a random password that is kept in Dir.
	Users []Login
	// AuthorizedKeys may come in over SSH besides the key in Dir, a line of
	// authorized_keys each.
	AuthorizedKeys []string
	// Limits are WinRM's; zero fields are those of a host that nobody changed.
	Limits wsman.Limits
	// Latency is added to each of WinRM's answers.
	Latency time.Duration
	// BootTime is how long a machine of the built-in guests boots.
	BootTime time.Duration
	// MemoryMB, DiskMB and Processors are the host's; 0: 16384, 65536 and 4.
	MemoryMB, DiskMB int64
	Processors       int
	// Faults are what goes wrong, and when.
	Faults []Fault
	// Log gets what the host does; nil: nothing.
	Log *slog.Logger
	// ListenWinRM and ListenSSH are loopback addresses; "": 127.0.0.1 and a port
	// that is free. A restarted host takes the port it had, when that is free.
	ListenWinRM, ListenSSH string
	// Program is the Linux build of lbagent, which stands in for lbagent.exe
	// when that is run on the host. "": there is no such program.
	Program string
	// Profile is what Windows the host says it is; zero: Server2022.
	Profile Profile
	// Images are the operating systems that have an image, C:\images\OS.vhdx.
	// Nil: Linux and Windows. Empty: none.
	Images []topology.OS
	// LinuxDisk is the real path of a VHDX that C:\images\linux.vhdx is, and says
	// that Guests boot real disks: every VHDX on the host is an image with Linux
	// then. "": no real disk is known here.
	LinuxDisk string
}

// DefaultUser is who may come in when Options names nobody.
const DefaultUser = "Administrator"

// Profile is what a host says of itself. What it says, it also does: without
// HyperV the verbs that need it fail as they do where the feature is missing.
type Profile struct {
	OS, Version         string
	PowerShell, Edition string
	Module              string
	// NotElevated: the user is no administrator.
	NotElevated bool
	// NoHyperV: the feature is not enabled.
	NoHyperV bool
	// SSHServer is the state of sshd: Running, Stopped, or "" when it is missing.
	SSHServer string
	Pktmon    bool
}

// Server2022 is a host as docs/hyperv.md wants it.
func Server2022() Profile {
	return Profile{
		OS: "Microsoft Windows Server 2022 Datacenter", Version: "10.0.20348",
		PowerShell: "5.1.20348.2582", Edition: "Desktop", Module: "2.0.0.0",
		SSHServer: "Running", Pktmon: true,
	}
}

// withDefaults returns the options with every meaning spelled out.
func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, fmt.Errorf("a simulated host needs a folder for its state")
	}
	if o.MemoryMB == 0 {
		o.MemoryMB = 16384
	}
	if o.DiskMB == 0 {
		o.DiskMB = 65536
	}
	if o.Processors == 0 {
		o.Processors = 4
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Profile == (Profile{}) {
		o.Profile = Server2022()
	}
	if o.Images == nil {
		o.Images = []topology.OS{topology.Linux, topology.Windows}
	}
	for _, address := range []*string{&o.ListenWinRM, &o.ListenSSH} {
		if err := checkLoopback(address); err != nil {
			return o, err
		}
	}
	return o, nil
}

// checkLoopback refuses an address that others could reach: a simulated host
// has guests with root's rights behind a password.
func checkLoopback(address *string) error {
	if *address == "" {
		*address = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(*address)
	if err != nil {
		return fmt.Errorf("address to listen at: %w", err)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return fmt.Errorf("a simulated host listens on loopback alone, and %s is not a loopback address", host)
	}
	return nil
}

// Endpoint is what a topology needs to reach the host.
type Endpoint struct {
	// Simulated is always true: nobody shall take it for a Hyper-V host.
	Simulated bool `json:"simulated"`
	// Host and Port are WinRM's, over HTTPS; Fingerprint is the SHA-256 of its
	// certificate in hex.
	Host        string `json:"host"`
	Port        int    `json:"port"`
	Fingerprint string `json:"fingerprint"`
	User        string `json:"user"`
	// Password is in PasswordFile, too, which has mode 0600.
	Password     string `json:"-"`
	PasswordFile string `json:"passwordFile"`
	SSH          Jump   `json:"ssh"`
	// Images are the paths of the images on the host.
	Images map[topology.OS]string `json:"images"`
}

// Jump is the host's SSH server, which forwards connections and does nothing else.
type Jump struct {
	Host string `json:"host"`
	Port int    `json:"port"`
	User string `json:"user"`
	// HostKey is the server's public key as a line of authorized_keys: "ssh-ed25519 AAAA…".
	HostKey string `json:"hostKey"`
	// KeyFile holds the client's private key, mode 0600.
	KeyFile string `json:"keyFile"`
}
