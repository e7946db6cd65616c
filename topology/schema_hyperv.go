package topology

import "github.com/invopop/jsonschema"

// hypervRules are the rules of the types of a hyperv block.
func hypervRules() map[string]rule {
	byDefault := func(value any) func(*jsonschema.Schema) {
		return func(s *jsonschema.Schema) { s.Default = value }
	}
	digits := func(s *jsonschema.Schema) { s.Pattern = sha256Hex().String() }
	variable := func(s *jsonschema.Schema) { s.Pattern = variableName().String() }
	return map[string]rule{
		"Providers.HyperV": {false, "The Hyper-V host and what its machines are made from (--provider hyperv).", nil},

		"HyperV.Local":    {false, "labctl runs on the Hyper-V host itself; instead of host.", nil},
		"HyperV.Host":     {false, "Where the host's WinRM service is and how to log on to it.", nil},
		"HyperV.Storage":  {false, `The folder on the host where the lab's own folder goes; default C:\l4lab.`, byDefault(DefaultStorage)},
		"HyperV.Images":   {true, "An image for each operating system that a node runs.", nil},
		"HyperV.Reach":    {false, "The way to Linux guests; default ssh-jump, or direct with local: true.", nil},
		"HyperV.EBPF":     {false, "What the Windows guests load programs with.", nil},
		"HyperV.Page":     {false, "Who serves the backends' pages; default lbagent, which tests need.", byDefault(string(PageLBAgent))},
		"HyperV.Loopback": {false, "What bears the VIPs on Windows guests; default builtin.", byDefault(string(LoopbackBuiltin))},

		"HyperVHost.Address": {true, "The host's name or address.", nil},
		"HyperVHost.Port":    {false, "WinRM's port; default 5986, or 5985 with https: false.", func(s *jsonschema.Schema) { between(s, 1, 65535) }},
		"HyperVHost.HTTPS":   {false, "Default true; false is for NTLM alone, which then encrypts each message.", byDefault(true)},
		"HyperVHost.CAFile":  {false, "PEM file with the authority that signed the host's certificate.", nil},
		"HyperVHost.Fingerprint": {false, "SHA-256 of the host's own certificate, in hex.", func(s *jsonschema.Schema) {
			s.Pattern = `^[0-9a-fA-F:]{64,95}$`
		}},
		"HyperVHost.Auth":        {false, "How labctl proves who it is; default ntlm. basic needs HTTPS.", byDefault(string(AuthNTLM))},
		"HyperVHost.Credentials": {true, "An administrator of the host, or a member of Hyper-V Administrators.", nil},

		"Credential.User":         {false, `The user: name, DOMAIN\name or name@domain.`, nil},
		"Credential.UserEnv":      {false, "The environment variable that holds the user's name.", variable},
		"Credential.PasswordEnv":  {false, "The environment variable that holds the password.", variable},
		"Credential.PasswordFile": {false, "A file with the password on its first line, which its owner alone can read.", nil},

		"HyperVImages.Linux":   {false, "The image of Linux nodes: a cloud image with cloud-init.", nil},
		"HyperVImages.Windows": {false, "The image of Windows nodes: Windows Server, generalised with sysprep.", nil},

		"HyperVImage.Path":       {false, "The VHDX on the host, which is never written to.", nil},
		"HyperVImage.File":       {false, "A VHDX of this machine to upload, instead of path.", nil},
		"HyperVImage.SHA256":     {false, "The image's SHA-256 in hex; without it the image is not checked.", digits},
		"HyperVImage.Generation": {false, "Generation of the virtual machines; default 2.", func(s *jsonschema.Schema) { between(s, 1, 2) }},
		"HyperVImage.MemoryMB":   {false, "Memory of each machine; default 1024 for Linux, 2048 for Windows.", func(s *jsonschema.Schema) { between(s, minMemoryMB, maxMemoryMB) }},
		"HyperVImage.CPUs":       {false, "Processors of each machine; default 2.", func(s *jsonschema.Schema) { between(s, 1, maxCPUs) }},
		"HyperVImage.SecureBoot": {false, "Firmware of generation 2 starts signed systems alone; default true for Linux. False for an image of `labctl image export`, which has no signature, and for Windows always.", nil},
		"HyperVImage.Login":      {false, "The guests' administrator. Linux takes the lab's key alone, root's unless a user is named, who then uses sudo; a Windows password that is named nowhere is made up.", nil},

		"EBPF.Profile":  {false, "efw-0.21 (eBPF for Windows 0.21.1, both modes) or xdp (with XDP for Windows, no IP-in-IP); default efw-0.21.", byDefault(string(ProfileEFW))},
		"EBPF.MSI":      {false, "The installer of eBPF for Windows; left out when the image has it.", nil},
		"EBPF.XDP":      {false, "The folder of XDP for Windows with xdp-setup.ps1, for profile xdp.", nil},
		"EBPF.Programs": {false, "The compiled data path: lb.sys and decap_xdp.sys, or objects (.o) for the JIT build.", nil},
	}
}
