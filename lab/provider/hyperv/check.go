package hyperv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"l4lab/lab/powershell"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

// diskPerNodeMB is what a differencing disk grows to while a node is set up.
const diskPerNodeMB = 4096

// Check implements provider.Provider: this machine, then the host.
func (p *Provider) Check(ctx context.Context, lab provider.Lab) []provider.Requirement {
	list := p.o.Local(lab)
	target, err := p.o.Find(ctx, lab, false)
	switch {
	case errors.Is(err, ErrNoHost) && p.o.Simulated:
		return list // it is started when it is needed
	case errors.Is(err, ErrNoHost):
		return append(list, provider.Requirement{
			Name: "providers.hyperv", Fatal: true, Found: "the topology has no such block",
			Remedy: "`labctl topology --provider hyperv > lab.yaml` writes one to fill in; then `labctl up lab.yaml --provider hyperv`",
		})
	case err != nil:
		return append(list, provider.Requirement{Name: "providers.hyperv", Fatal: true, Found: err.Error()})
	}
	c := checker{p: p, lab: lab, target: target, list: list}
	c.files()
	c.hostItself(ctx)
	return c.list
}

// checker collects requirements.
type checker struct {
	p      *Provider
	lab    provider.Lab
	target Target
	list   []provider.Requirement
}

func (c *checker) add(name string, ok bool, found, remedy string) *provider.Requirement {
	r := provider.Requirement{Name: name, OK: ok, Fatal: true, Found: found}
	if !ok {
		r.Remedy = remedy
	}
	c.list = append(c.list, r)
	return &c.list[len(c.list)-1]
}

// files looks for the files of this machine that the block names. What is
// missing keeps nobody from removing a lab.
func (c *checker) files() {
	file := func(field, path string) {
		if path == "" {
			return
		}
		found := path
		_, err := os.Stat(path)
		if err != nil {
			found = err.Error()
		}
		c.add(field, err == nil, found, "correct providers.hyperv."+field).ForUp = field != "host.caFile"
	}
	if h := c.target.Host; h != nil {
		file("host.caFile", h.CAFile)
	}
	file("ebpf.msi", c.target.EBPF.MSI)
	file("ebpf.xdp", c.target.EBPF.XDP)
	for i, path := range c.target.EBPF.Programs {
		file(fmt.Sprintf("ebpf.programs[%d]", i), path)
	}
	for _, system := range []topology.OS{topology.Linux, topology.Windows} {
		if image := c.target.Images.Of(system); image != nil {
			file("images."+string(system)+".file", image.File)
		}
	}
}

// remedies says what to do when the host cannot be logged on to.
func remedies(err error) string {
	switch {
	case errors.Is(err, ErrSecret):
		return "set the environment variable that the topology names, or name a passwordFile"
	case errors.Is(err, powershell.ErrAuth):
		return "check user and password (DOMAIN\\name for a domain's user), and that the user may use WinRM; too many shells show like this, too: `winrm enumerate shell` on the host"
	case errors.Is(err, powershell.ErrUnreachable):
		return "on the host: `winrm quickconfig -transport:https`, open the port in its firewall, and compare the certificate with caFile or fingerprint"
	}
	return "see docs/hyperv.md"
}

func (c *checker) hostItself(ctx context.Context) {
	h, err := c.p.host(ctx, c.lab, false)
	if err != nil {
		c.add("WinRM", false, err.Error(), remedies(err))
		return
	}
	t := c.lab.Topology
	f, err := h.verbs.HostCheck.Run(ctx, h.runner, scripts.HostCheckParams{
		Folder: c.target.Storage, Names: append(vmNames(t), switchName(t.Name)), Mark: h.mark,
	})
	if err != nil {
		c.add("host", false, err.Error(), remedies(err))
		return
	}
	found := describe(c.target.HyperV) + ", " + f.OS + " " + f.Version
	if f.Simulated {
		found += " (SIMULATED)"
	}
	c.add("host", true, found, "")
	c.software(f)
	c.room(f)
	c.images(ctx, h)
}

func (c *checker) software(f scripts.HostCheckResult) {
	c.add("PowerShell", recent(f.PowerShell), f.PowerShell+" "+f.Edition, "install Windows PowerShell 5.1 (WMF 5.1) or a later Windows")
	c.add("privileges", f.Elevated, choose(f.Elevated, "administrator, or in Hyper-V Administrators", "an ordinary user"),
		"log on as an administrator of the host, or put the user into Hyper-V Administrators")
	c.add("Hyper-V", f.HyperV, choose(f.HyperV, "enabled, and vmms runs", "not enabled, or vmms does not run"),
		"Install-WindowsFeature Hyper-V -IncludeManagementTools -Restart (Server), or Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V -All")
	c.add("Hyper-V module", f.Module != "", choose(f.Module != "", f.Module, "not installed"), "Install-WindowsFeature Hyper-V-PowerShell")
	if c.target.Reach == topology.ReachSSHJump && c.uses(topology.Linux) {
		c.add("OpenSSH server", f.SSHServer == running, choose(f.SSHServer != "", f.SSHServer, "not installed"),
			"Add-WindowsCapability -Online -Name OpenSSH.Server~~~~0.0.1.0; Start-Service sshd; or set reach: portproxy").ForUp = true
	}
	c.add("pktmon", f.Pktmon, choose(f.Pktmon, "with etl2pcap", "missing"), "without it `labctl test` and `labctl demo` see no packets; take Windows Server 2022 or later").Fatal = false
	if len(f.Foreign) > 0 {
		c.add("names", false, strings.Join(f.Foreign, ", ")+" exist and are not this lab's", "use another --name, or remove them by hand").ForUp = true
	}
}

// recent says whether a version of PowerShell is 5.1 or later.
func recent(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (major > 5 || major == 5 && minor >= 1)
}

func choose(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

func (c *checker) uses(system topology.OS) bool {
	for _, n := range c.lab.Topology.Nodes {
		if n.OS == system {
			return true
		}
	}
	return false
}

// room compares what the lab wants with what is left. Machines of a lab that is up
// have taken theirs already: too little is no reason not to begin.
func (c *checker) room(f scripts.HostCheckResult) {
	var memory, disk int64
	for _, n := range c.lab.Topology.Nodes {
		if image := c.target.Images.Of(n.OS); image != nil {
			memory += int64(image.MemoryMB)
			disk += diskPerNodeMB
		}
	}
	c.add("memory", f.FreeMemoryMB >= memory, fmt.Sprintf("%d MB free, the lab's machines take %d", f.FreeMemoryMB, memory),
		"give the images less memoryMB, or turn other machines off (fine when the lab is up already)").Fatal = false
	c.add("disk", f.FreeDiskMB >= disk, fmt.Sprintf("%d MB free on %s, the lab's disks grow to about %d", f.FreeDiskMB, c.target.Storage, disk),
		"take another providers.hyperv.storage").Fatal = false
}

func (c *checker) images(ctx context.Context, h *host) {
	for _, system := range []topology.OS{topology.Linux, topology.Windows} {
		image := c.target.Images.Of(system)
		if image == nil || image.Path == "" || !c.uses(system) {
			continue
		}
		r, err := h.verbs.ImageProbe.Run(ctx, h.runner, scripts.ImageProbeParams{Path: image.Path})
		found := fmt.Sprintf("%s, %s, %s, %d MB", image.Path, r.Format, strings.ToLower(r.Type), r.Bytes>>20)
		if err != nil {
			found = err.Error()
		} else if !r.Exists {
			found = "there is no " + image.Path
		}
		c.add("image for "+string(system), err == nil && r.Exists, found, fmt.Sprintf("put it there, or correct providers.hyperv.images.%s.path", system)).ForUp = true
	}
}
