package inventory

import (
	"fmt"
	"maps"
	"slices"
)

// The list of the eBPF for Windows team's post of February 2022: what Cilium's
// balancer needed, and what they had to work around (marked so).
var (
	demoHelpers = map[string]string{
		"map_lookup_elem": "needed", "map_update_elem": "needed", "map_delete_elem": "needed", "tail_call": "needed",
		"get_prandom_u32": "needed", "get_smp_processor_id": "needed", "csum_diff": "needed", "ktime_get_ns": "needed",
		"fib_lookup": "worked around", "xdp_adjust_meta": "worked around", "xdp_adjust_tail": "worked around",
	}
	demoMapTypes = map[string]string{
		"hash": "needed", "percpu_array": "needed", "percpu_hash": "needed", "prog_array": "needed",
		"hash_of_maps": "needed", "lru_hash": "needed", "lpm_trie": "needed", "perf_event_array": "optional",
	}
)

// notes say why something of the list is not needed, on the systems that do not use
// it, and what stands in the place of another system's.
var notes = map[string]string{
	"get_smp_processor_id": "No map is indexed by processor: per-CPU maps give each its own entry, and events of all processors go to one ring buffer.",
	"csum_diff":            "Checksums are updated by the words that change (RFC 1624), which are known by name; `lib/checksum.h` adds them up in a few instructions without a call.",
	"ktime_get_ns":         "Lifetimes are seconds, so a clock of the timer's tick will do, which costs a fraction: `ktime_get_coarse_ns` on Linux, `ktime_get_boot_ms` on Windows.",
	"ktime_get_coarse_ns":  "The tables' clock on Linux; Windows' is `ktime_get_boot_ms`.",
	"ktime_get_boot_ms":    "The tables' clock on Windows; Linux' is `ktime_get_coarse_ns`.",
	"fib_lookup":           "Windows has none. The agent follows routes and neighbours and writes each next hop's MAC to `backends`, on both systems; without one, a packet is a counted drop.",
	"xdp_adjust_meta":      "Windows has none. A stage is handed nothing but the frame, so there is nothing to carry before it.",
	"xdp_adjust_tail":      "Windows has none. Linux cuts the packet that an ICMP error quotes; on Windows what is behind it stays as padding of the frame (`frame_trim` of `platform/windows.h`).",
	"xdp_adjust_head":      "IP-in-IP. Of the profile `xdp` the helper always fails, which the balancer counts as drops: SNAT and DSR by layer 2 are what works there. For the same reason there is no decapsulation.",
	"skb_adjust_room":      "What `xdp_adjust_head` is to XDP; Windows has no TC.",
	"skb_load_bytes":       "The headers inside a packet that was merged of several, wherever the driver or the stack left them; only TC sees such packets.",
	"skb_pull_data":        "Headers that a driver left outside of the linear part; only TC sees such packets.",
	"percpu_hash":          "Counters have numbers as keys, of a service, backend or reason, so that arrays do.",
	"perf_event_array":     "A ring buffer does it better: one for all processors, in order, and no record is lost to one full processor while others have room.",
}

// rows has one for everything that an object uses or the demo's list has.
func rows(used map[string]*users, demo map[string]string, mapsOf map[string][]string) []Row {
	names := slices.Collect(maps.Keys(used))
	for name := range demo {
		if used[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	list := make([]Row, len(names))
	for i, name := range names {
		list[i] = Row{Name: name, Maps: slices.Sorted(slices.Values(mapsOf[name])), Demo: demo[name], Note: notes[name]}
		for _, system := range Systems() {
			if u := used[name]; u != nil {
				list[i].Programs[system] = slices.Sorted(slices.Values(u[system]))
			}
		}
	}
	return list
}

// unexplained is an error when something of the demo's list, or something that only
// one system uses, has no note.
func (v Inventory) unexplained() error {
	var missing []string
	for _, r := range slices.Concat(v.Helpers, v.MapTypes) {
		if (len(r.On(Linux)) == 0 || len(r.On(EFW)) == 0) && r.Note == "" {
			missing = append(missing, r.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("no note says why a system goes without %q", missing)
}
