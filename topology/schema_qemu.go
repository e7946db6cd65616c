package topology

import "github.com/invopop/jsonschema"

// qemuRules are the rules of the types of a qemu block.
func qemuRules() map[string]rule {
	image := func(s *jsonschema.Schema) { s.Pattern = imagePattern }
	return map[string]rule{
		"Providers.QEMU": {false, "What virtual machines are made from (--provider qemu).", nil},

		"QEMU.Images":   {false, "An image for each operating system that a node runs.", nil},
		"QEMU.MemoryMB": {false, "Memory of each machine; default 240.", func(s *jsonschema.Schema) { between(s, minQEMUMemoryMB, maxMemoryMB); s.Default = DefaultQEMUMemoryMB }},
		"QEMU.CPUs":     {false, "Processors of each machine; default 1.", func(s *jsonschema.Schema) { between(s, 1, maxCPUs); s.Default = DefaultQEMUCPUs }},
		"QEMU.Accel":    {false, "How guests' instructions are run; default auto: kvm where it works, else tcg, which emulates.", func(s *jsonschema.Schema) { s.Default = string(AccelAuto) }},

		"QEMUImages.Linux":   {false, "The image of Linux nodes; default debian, which `labctl image build debian` makes.", func(s *jsonschema.Schema) { image(s); s.Default = DefaultQEMUImage }},
		"QEMUImages.Windows": {false, "The image of Windows nodes: Windows Server, generalised with sysprep; without it Linux machines stand in for them.", image},

		"QEMU.Windows": {false, "What the machines of Windows nodes are and get, with images.windows.", nil},
		"QEMUWindows.MemoryMB": {false, "Memory of each machine; default 2048.", func(s *jsonschema.Schema) {
			between(s, minWindowsMemoryMB, maxMemoryMB)
			s.Default = DefaultWindowsMemoryMB
		}},
		"QEMUWindows.CPUs": {false, "Processors of each machine; default 2.", func(s *jsonschema.Schema) { between(s, 1, maxCPUs); s.Default = DefaultCPUs }},
		"QEMUWindows.NIC":  {false, "The network card; default e1000, for which Windows has a driver; virtio wants one in the image.", func(s *jsonschema.Schema) { s.Default = string(CardE1000) }},
		"QEMUWindows.EBPF": {false, "What the Windows guests load programs with.", nil},
	}
}
