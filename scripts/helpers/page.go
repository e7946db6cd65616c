package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	"skb_pull_data":        "Headers that a driver left outside of the linear part; only TC sees such packets.",
	"percpu_hash":          "Counters have numbers as keys, of a service, backend or reason, so that arrays do.",
	"perf_event_array":     "A ring buffer does it better: one for all processors, in order, and no record is lost to one full processor while others have room.",
}

// generate writes the page.
func generate() (string, error) {
	v, err := takeInventory()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(`# Helpers and map types

Written by ` + "`make docs`" + ` from the objects that are shipped; do not edit. A column names the programs that use something on that system:
` + "`lb_fast`" + ` stands for ` + "`lb_fast4` and `lb_fast6`" + `, and so on ([datapath.md](datapath.md) says what each does). "The demo" is the list of the eBPF for Windows
team's post of February 2022, of what Cilium's balancer needed there or they had to work around.

## Helpers

`)
	b.WriteString(table("helper", v.helpers, demoHelpers, nil))
	b.WriteString(`
## Map types

The numbers of the types differ between the systems, as the helpers' do; ` + "`bpf/platform/`" + ` has both. Sizes and purposes are in ` + "`bpf/lib/maps.h`" + `.

`)
	b.WriteString(table("map type", v.mapTypes, demoMapTypes, v.maps))
	return b.String(), v.unexplained()
}

// table has a row for everything that an object uses or the demo's list has.
func table(what string, used map[string]*users, demo map[string]string, mapsOf map[string][]string) string {
	names := slices.Sorted(maps.Keys(used))
	for name := range demo {
		if used[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	row := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	row(append([]string{what}, append(systemNames[:], "the demo", "notes")...)...)
	row(slices.Repeat([]string{"---"}, systems+3)...)
	for _, name := range names {
		cells := []string{"`" + name + "`"}
		for system := range systems {
			cell := "–"
			if u := used[name]; u != nil && len(u[system]) > 0 {
				cell = quoted(u[system])
			}
			cells = append(cells, cell)
		}
		note := notes[name]
		if of := mapsOf[name]; len(of) > 0 {
			note = strings.TrimSpace("Maps: " + quoted(of) + ". " + note)
		}
		cells = append(cells, cmp.Or(demo[name], "–"), note)
		row(cells...)
	}
	return b.String()
}

func quoted(names []string) string { return "`" + strings.Join(names, "`, `") + "`" }

// unexplained is an error when something of the demo's list, or something that only
// one system uses, has no note.
func (v *inventory) unexplained() error {
	var missing []string
	look := func(used map[string]*users, demo map[string]string) {
		for name := range demo {
			if used[name] == nil && notes[name] == "" {
				missing = append(missing, name)
			}
		}
		for name, u := range used {
			if (len(u[onLinux]) == 0 || len(u[onEFW]) == 0) && notes[name] == "" {
				missing = append(missing, name)
			}
		}
	}
	look(v.helpers, demoHelpers)
	look(v.mapTypes, demoMapTypes)
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("no note says why a system goes without %q", missing)
}
