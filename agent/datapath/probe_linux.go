package datapath

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// Requirements are what the program needs of the kernel: Linux 5.15 has all of
// it. That the program's own helper is there is probed because it is the
// youngest of all.
func Requirements() []Requirement {
	return []Requirement{
		{"XDP programs", "Linux 4.8", func() error { return features.HaveProgramType(ebpf.XDP) }},
		{"maps of type hash_of_maps", "Linux 4.12", func() error { return features.HaveMapType(ebpf.HashOfMaps) }},
		{"inner maps of any size (BPF_F_INNER_MAP)", "Linux 5.10", haveInnerMap},
		{"the helper bpf_ktime_get_coarse_ns", "Linux 5.11", func() error {
			return features.HaveProgramHelper(ebpf.XDP, asm.FnKtimeGetCoarseNs)
		}},
	}
}

func haveInnerMap() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1, Flags: innerMapFlag})
	if err != nil {
		return err
	}
	return m.Close()
}

// innerMapFlag is BPF_F_INNER_MAP of linux/bpf.h.
const innerMapFlag = 1 << 12
