package topology

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"l4lab/strictyaml"
)

// Limits on what a hyperv block may say.
const (
	minMemoryMB = 256
	maxMemoryMB = 1 << 20
	maxCPUs     = 64
	// maxStorage leaves room below Windows' MAX_PATH of 260 characters.
	maxStorage = 120
)

const hypervPath = "providers.hyperv"

// windowsPath is a full path on a drive, without the characters that Windows
// keeps from names and without . and .. as names.
var windowsPath = compiled(`^[A-Za-z]:(\\[^\\/:*?"<>|\x00-\x1f]+)+$`)

func isWindowsPath(s string) bool {
	return windowsPath().MatchString(s) && !slices.ContainsFunc(strings.Split(s, `\`), func(part string) bool { return strings.Trim(part, ". ") == "" })
}

var (
	sha256Hex    = compiled(`^[0-9a-fA-F]{64}$`)
	variableName = compiled(`^[A-Za-z_][A-Za-z0-9_]*$`)
	linuxUser    = compiled(`^[a-z_][a-z0-9_-]{0,30}$`)
)

// hyperv judges the block of the Hyper-V provider.
func (v *validator) hyperv() {
	h := v.t.Providers.HyperV
	if h == nil {
		return
	}
	switch {
	case h.Host == nil && !h.Local:
		v.fault(hypervPath, "says neither host, the machine that runs Hyper-V, nor local: true, when labctl runs on it")
	case h.Host != nil && h.Local:
		v.fault(hypervPath+".host", "and local: true exclude one another: on the host itself labctl needs no WinRM")
	case h.Host != nil:
		v.hypervHost(hypervPath+".host", *h.Host)
	}
	if !isWindowsPath(h.Storage) || len(h.Storage) > maxStorage {
		v.fault(hypervPath+".storage", `%s is no folder on a drive of the host of at most %d characters, such as D:\l4lab`, strictyaml.Shorten(h.Storage), maxStorage)
	}
	for _, os := range []OS{Linux, Windows} {
		v.hypervImage(os, h.Images.Of(os))
	}
	v.oneOf(hypervPath+".reach", string(h.Reach), string(ReachDirect), string(ReachSSHJump), string(ReachPortProxy))
	if h.Local && (h.Reach == ReachSSHJump || h.Reach == ReachPortProxy) {
		v.fault(hypervPath+".reach", "%s leads through the host, on which labctl runs already (local: true): take direct", h.Reach)
	}
	v.ebpf(hypervPath+".ebpf", h.EBPF)
	v.oneOf(hypervPath+".page", string(h.Page), string(PageLBAgent), string(PageNative))
	v.oneOf(hypervPath+".loopback", string(h.Loopback), string(LoopbackBuiltin), string(LoopbackKMTest))
}

// ebpf judges what Windows guests load programs with.
func (v *validator) ebpf(path string, e EBPF) {
	v.oneOf(path+".profile", string(e.Profile), string(ProfileEFW), string(ProfileXDP))
	if e.XDP != "" && e.Profile == ProfileEFW {
		v.fault(path+".xdp", "is for profile %s: %s has its XDP hook in eBPF for Windows", ProfileXDP, ProfileEFW)
	}
	for i, p := range e.Programs {
		if !strings.HasSuffix(p, ".sys") && !strings.HasSuffix(p, ".o") {
			v.fault(fmt.Sprintf("%s.programs[%d]", path, i), "%s is neither a native image (.sys) nor an object (.o)", strictyaml.Shorten(p))
		}
	}
}

func (v *validator) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.fault(path, "unknown value %s; allowed are %s", strictyaml.Shorten(value), strings.Join(allowed, ", "))
	}
}

func (v *validator) hypervHost(path string, host HyperVHost) {
	if host.Address == "" || strings.ContainsAny(host.Address, " /@\t") {
		v.fault(path+".address", "%s is no name or address of a host", strictyaml.Shorten(host.Address))
	}
	if host.Port < 1 || host.Port > 65535 {
		v.fault(path+".port", "%d is not between 1 and 65535", host.Port)
	}
	v.oneOf(hypervPath+".host.auth", string(host.Auth), string(AuthNTLM), string(AuthBasic))
	if !host.HTTPS {
		if host.Auth == AuthBasic {
			v.fault(path+".auth", "basic sends the password itself and needs HTTPS: take ntlm, or leave https: false out")
		}
		if host.CAFile != "" {
			v.fault(path+".caFile", "is for HTTPS")
		}
		if host.Fingerprint != "" {
			v.fault(path+".fingerprint", "is for HTTPS")
		}
	}
	if host.CAFile != "" && host.Fingerprint != "" {
		v.fault(path+".fingerprint", "and caFile exclude one another: the fingerprint pins one certificate, whoever signed it")
	}
	if host.Fingerprint != "" && !sha256Hex().MatchString(strings.ReplaceAll(host.Fingerprint, ":", "")) {
		v.fault(path+".fingerprint", "%s is no SHA-256 in hex (64 digits; colons are allowed)", strictyaml.Shorten(host.Fingerprint))
	}
	v.credential(path+".credentials", host.Credentials)
}

// credential judges where a login comes from.
func (v *validator) credential(path string, c Credential) {
	switch {
	case c.User == "" && c.UserEnv == "":
		v.fault(path, "names no user: give user, or userEnv with the environment variable that holds the name")
	case c.User != "" && c.UserEnv != "":
		v.fault(path+".userEnv", "and user exclude one another")
	}
	// What stands there may be the secret itself, put in the wrong place: it is not shown.
	const noVariable = "is no name of an environment variable (letters, digits, underscores)"
	if c.UserEnv != "" && !variableName().MatchString(c.UserEnv) {
		v.fault(path+".userEnv", noVariable)
	}
	if c.PasswordEnv != "" && !variableName().MatchString(c.PasswordEnv) {
		v.fault(path+".passwordEnv", noVariable)
	}
	if c.PasswordEnv != "" && c.PasswordFile != "" {
		v.fault(path+".passwordFile", "and passwordEnv exclude one another")
	}
}

func (v *validator) hypervImage(os OS, image *HyperVImage) {
	path := hypervPath + ".images." + string(os)
	if image == nil {
		if node := v.runs(os); node != "" {
			v.fault(hypervPath+".images", "has none for %s, which %s runs", os, node)
		}
		return
	}
	switch {
	case image.Path == "" && image.File == "":
		v.fault(path, "says neither path, a VHDX on the host, nor file, one to upload")
	case image.Path != "" && image.File != "":
		v.fault(path+".file", "and path exclude one another")
	case image.Path != "" && !isWindowsPath(image.Path):
		v.fault(path+".path", `%s is no full path on the host, such as D:\images\%s.vhdx`, strictyaml.Shorten(image.Path), os)
	}
	if image.SHA256 != "" && !sha256Hex().MatchString(image.SHA256) {
		v.fault(path+".sha256", "%s is no SHA-256 in hex (64 digits)", strictyaml.Shorten(image.SHA256))
	}
	if image.Generation != 1 && image.Generation != 2 {
		v.fault(path+".generation", "%d is neither 1 nor 2", image.Generation)
	}
	if image.MemoryMB < minMemoryMB || image.MemoryMB > maxMemoryMB || image.MemoryMB%2 != 0 {
		v.fault(path+".memoryMB", "%d is no even number between %d and %d", image.MemoryMB, minMemoryMB, maxMemoryMB)
	}
	if image.CPUs < 1 || image.CPUs > maxCPUs {
		v.fault(path+".cpus", "%d is not between 1 and %d", image.CPUs, maxCPUs)
	}
	if os == Windows && image.StartsSigned(os) {
		v.fault(path+".secureBoot", "cannot be true: Windows refuses test signing with it, which eBPF for Windows needs")
	}
	v.login(path+".login", os, image.Login)
}

func (v *validator) login(path string, os OS, login Credential) {
	if os == Windows {
		v.credential(path, login)
		return
	}
	if login.PasswordEnv != "" || login.PasswordFile != "" {
		v.fault(path, "Linux guests take the lab's key alone: leave the password out")
	}
	if login.UserEnv != "" || !linuxUser().MatchString(login.User) {
		v.fault(path+".user", "%s is no name of a Linux user (lower-case letters, digits, - and _)", strictyaml.Shorten(login.User))
	}
}

// runs returns the first node with that operating system, "" when none has it.
func (v *validator) runs(os OS) string {
	for _, name := range v.names {
		if v.t.Nodes[name].OS == os {
			return name
		}
	}
	return ""
}

// compiled returns an expression that is compiled at its first use: most calls of
// labctl need none of them.
func compiled(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
