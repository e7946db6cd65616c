package topology

import (
	"path/filepath"
	"reflect"
	"strings"
)

// Providers is what providers must be told besides the lab itself. Only the
// block of the provider that is used counts; no block holds a secret.
type Providers struct {
	HyperV *HyperV `yaml:"hyperv" json:"hyperv,omitempty"`
	QEMU   *QEMU   `yaml:"qemu" json:"qemu,omitempty"`
}

// HyperV says where the Hyper-V host is, what its machines are made from and
// how they are reached. Host and Local exclude one another.
type HyperV struct {
	// Local: labctl runs on the host itself, by a PowerShell process, without WinRM.
	Local bool        `yaml:"local" json:"local,omitempty"`
	Host  *HyperVHost `yaml:"host" json:"host,omitempty"`
	// Storage is the folder on the host where the lab's own folder goes.
	Storage string       `yaml:"storage" json:"storage,omitempty"`
	Images  HyperVImages `yaml:"images" json:"images"`
	// Reach is the way to Linux guests; Windows guests are always reached by
	// PowerShell Direct.
	Reach Reach `yaml:"reach" json:"reach,omitempty"`
	EBPF  EBPF  `yaml:"ebpf" json:"ebpf,omitzero"`
	// Page is who serves the backends' pages, Loopback what bears the VIPs on Windows.
	Page     PageServer `yaml:"page" json:"page,omitempty"`
	Loopback Loopback   `yaml:"loopback" json:"loopback,omitempty"`
}

// HyperVHost is where the host's WinRM service is and how to log on to it.
type HyperVHost struct {
	Address string `yaml:"address" json:"address"`
	// Port is WinRM's: 5986 with HTTPS, 5985 without.
	Port int `yaml:"port" json:"port,omitempty"`
	// HTTPS is the default. HTTP needs NTLM, which then encrypts each message.
	HTTPS bool `yaml:"https" json:"https"`
	// CAFile is a PEM file with the authority that signed the host's
	// certificate, Fingerprint that certificate's own SHA-256 in hex. With
	// neither, the system's authorities decide.
	CAFile      string     `yaml:"caFile" json:"caFile,omitempty"`
	Fingerprint string     `yaml:"fingerprint" json:"fingerprint,omitempty"`
	Auth        HostAuth   `yaml:"auth" json:"auth,omitempty"`
	Credentials Credential `yaml:"credentials" json:"credentials"`
}

// Credential says who logs on and where the password is found: in an
// environment variable, in a file that only its owner can read, or, with
// neither, by asking at the terminal. It is read when it is used and kept nowhere.
type Credential struct {
	// User is "name", "DOMAIN\name" or "name@domain"; UserEnv is the
	// environment variable that holds it.
	User         string `yaml:"user" json:"user,omitempty"`
	UserEnv      string `yaml:"userEnv" json:"userEnv,omitempty"`
	PasswordEnv  string `yaml:"passwordEnv" json:"passwordEnv,omitempty"`
	PasswordFile string `yaml:"passwordFile" json:"passwordFile,omitempty"`
}

// HyperVImages has an image for each operating system that a node runs.
type HyperVImages struct {
	Linux   *HyperVImage `yaml:"linux" json:"linux,omitempty"`
	Windows *HyperVImage `yaml:"windows" json:"windows,omitempty"`
}

// Of returns the image of an operating system, nil when there is none.
func (i HyperVImages) Of(os OS) *HyperVImage {
	if os == Windows {
		return i.Windows
	}
	return i.Linux
}

// HyperVImage is a disk that machines are made from, and what they get. The
// image itself is never written to.
type HyperVImage struct {
	// Path is the VHDX's on the host; File is one to upload. One of them is given.
	Path string `yaml:"path" json:"path,omitempty"`
	File string `yaml:"file" json:"file,omitempty"`
	// SHA256 of the image, in hex; "" leaves it unchecked.
	SHA256     string `yaml:"sha256" json:"sha256,omitempty"`
	Generation int    `yaml:"generation" json:"generation,omitempty"`
	MemoryMB   int    `yaml:"memoryMB" json:"memoryMB,omitempty"`
	CPUs       int    `yaml:"cpus" json:"cpus,omitempty"`
	// SecureBoot has the firmware start signed systems alone (generation 2). The
	// default is true for Linux, whose distributions are signed, and false for
	// Windows, which loads no test-signed driver with it.
	// Nil is the default, which labs of earlier versions have too.
	SecureBoot *bool `yaml:"secureBoot" json:"secureBoot,omitempty"`
	// Login is the guest's administrator. Linux guests take the lab's key alone;
	// of Windows guests, a password that is named nowhere is made up for the lab
	// and kept in its folder.
	Login Credential `yaml:"login" json:"login,omitzero"`
}

// EBPF is what the Windows guests load programs with.
type EBPF struct {
	Profile EBPFProfile `yaml:"profile" json:"profile,omitempty"`
	// MSI is eBPF for Windows' installer; "" when the image has it installed.
	MSI string `yaml:"msi" json:"msi,omitempty"`
	// XDP is the folder of XDP for Windows with xdp-setup.ps1, for profile xdp.
	XDP string `yaml:"xdp" json:"xdp,omitempty"`
	// Programs are the compiled data path, native images (lb.sys,
	// decap_xdp.sys) or objects, which go to C:\l4lab.
	Programs []string `yaml:"programs" json:"programs,omitempty"`
}

// HostAuth is how labctl proves to the host who it is.
type HostAuth string

// The ways that WinRM knows and labctl takes.
const (
	AuthNTLM  HostAuth = "ntlm"
	AuthBasic HostAuth = "basic"
)

// Reach is how labctl comes to a Linux guest, whose switch has no way out of the host.
type Reach string

// The ways to Linux guests.
const (
	// ReachDirect: labctl runs on the host, or has a route to the switch.
	ReachDirect Reach = "direct"
	// ReachSSHJump: through the host's OpenSSH server.
	ReachSSHJump Reach = "ssh-jump"
	// ReachPortProxy: through a port of the host each, forwarded by netsh.
	ReachPortProxy Reach = "portproxy"
)

// EBPFProfile is a pair of releases that work together (docs/windows.md).
type EBPFProfile string

// The profiles: efw-0.21 can do both modes; xdp has no IP-in-IP.
const (
	ProfileEFW EBPFProfile = "efw-0.21"
	ProfileXDP EBPFProfile = "xdp"
)

// PageServer is who serves a backend's page.
type PageServer string

// The servers: lbagent web, which tests need, or IIS and nginx.
const (
	PageLBAgent PageServer = "lbagent"
	PageNative  PageServer = "native"
)

// Loopback is what bears the VIPs on a Windows guest.
type Loopback string

// The loopbacks: Windows' own pseudo-interface, or a KM-TEST adapter that the
// image must have.
const (
	LoopbackBuiltin Loopback = "builtin"
	LoopbackKMTest  Loopback = "kmtest"
)

// The values of fields of the hyperv block that a file may leave out.
const (
	DefaultStorage         = `C:\l4lab`
	DefaultHTTPSPort       = 5986
	DefaultHTTPPort        = 5985
	DefaultGeneration      = 2
	DefaultCPUs            = 2
	DefaultLinuxMemoryMB   = 1024
	DefaultWindowsMemoryMB = 2048
	DefaultLinuxUser       = "root"
	DefaultWindowsUser     = "Administrator"
)

// fill gives fields that the file does not have their values.
func (h *HyperV) fill(has func(path string) bool) {
	if !has("storage") {
		h.Storage = DefaultStorage
	}
	if host := h.Host; host != nil {
		if !has("host.https") {
			host.HTTPS = true
		}
		if !has("host.port") {
			host.Port = DefaultHTTPPort
			if host.HTTPS {
				host.Port = DefaultHTTPSPort
			}
		}
		if !has("host.auth") {
			host.Auth = AuthNTLM
		}
	}
	if !has("reach") {
		h.Reach = ReachSSHJump
		if h.Local {
			h.Reach = ReachDirect
		}
	}
	h.Images.Linux.fill(DefaultLinuxMemoryMB, DefaultLinuxUser, func(p string) bool { return has("images.linux." + p) })
	h.Images.Windows.fill(DefaultWindowsMemoryMB, DefaultWindowsUser, func(p string) bool { return has("images.windows." + p) })
	if !has("ebpf.profile") {
		h.EBPF.Profile = ProfileEFW
	}
	if !has("page") {
		h.Page = PageLBAgent
	}
	if !has("loopback") {
		h.Loopback = LoopbackBuiltin
	}
}

func (i *HyperVImage) fill(memoryMB int, user string, has func(path string) bool) {
	if i == nil {
		return
	}
	if !has("generation") {
		i.Generation = DefaultGeneration
	}
	if !has("memoryMB") {
		i.MemoryMB = memoryMB
	}
	if !has("cpus") {
		i.CPUs = DefaultCPUs
	}
	if !has("login.user") && !has("login.userEnv") {
		i.Login.User = user
	}
}

// StartsSigned says whether the firmware of the image's machines starts signed systems alone.
func (i HyperVImage) StartsSigned(os OS) bool {
	if i.SecureBoot != nil {
		return *i.SecureBoot
	}
	return os == Linux
}

// FilledHyperV returns a block with every default, as a file would have it that
// says only what is set here.
func FilledHyperV(h HyperV) HyperV {
	h.fill(func(path string) bool { return !at(reflect.ValueOf(&h).Elem(), path).IsZero() })
	return h
}

// at returns the field at a path of names in a file; the path must exist.
func at(v reflect.Value, path string) reflect.Value {
	for name := range strings.SplitSeq(path, ".") {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		for _, f := range format().Fields(v.Type()) {
			if f.Name == name {
				v = v.Field(f.Index)
				break
			}
		}
	}
	return v
}

// files returns pointers to the paths of files of this machine in the block.
func (h *HyperV) files() []*string {
	list := h.EBPF.files()
	if h.Host != nil {
		list = append(list, &h.Host.CAFile, &h.Host.Credentials.PasswordFile)
	}
	for _, i := range []*HyperVImage{h.Images.Linux, h.Images.Windows} {
		if i != nil {
			list = append(list, &i.File, &i.Login.PasswordFile)
		}
	}
	return list
}

func (e *EBPF) files() []*string {
	list := []*string{&e.MSI, &e.XDP}
	for i := range e.Programs {
		list = append(list, &e.Programs[i])
	}
	return list
}

// resolve makes the paths of files relative to the topology's own folder.
func (p *Providers) resolve(dir string) error {
	var files []*string
	if p.HyperV != nil {
		files = p.HyperV.files()
	}
	if p.QEMU != nil {
		files = append(files, p.QEMU.files()...)
	}
	for _, path := range files {
		if *path == "" || filepath.IsAbs(*path) {
			continue
		}
		absolute, err := filepath.Abs(filepath.Join(dir, *path))
		if err != nil {
			return err
		}
		*path = absolute
	}
	return nil
}
