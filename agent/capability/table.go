package capability

import "fmt"

// The keys of features that Refuse goes by.
const (
	DSRIPIP4  = "dsr-ipip-4in4"
	DSRIPIP6  = "dsr-ipip-6in6"
	TableSize = "table-size"
	HealthVIP = "health-vip"
)

// Sizes of the maps as bpf/lib/maps.h has them: defaults on Linux, fixed in Windows' images.
const (
	Services     = 4096
	Backends     = 16384 - 1 // id 0 is nobody's
	Sources      = 4096
	Connections4 = 131072
	Connections6 = 32768
	NewFlows4    = 32768
	NewFlows6    = 8192
	Affinities   = 16384
	Fragments    = 4096
	MaglevSlots  = 16381
	EventBytes   = 256 * 1024
)

// Why a system cannot do something.
const (
	noAdjustHead  = "bpf_xdp_adjust_head of XDP for Windows always fails (xdp-for-windows issues 457 and 891): no room for an outer header"
	noMaxEntries  = "release builds of eBPF for Windows do not enforce max_entries of hash tables; the agent counts services and sources itself"
	unloadFirst   = "a new program takes `lbagent unload` first, which ends connections: eBPF for Windows has no link update, and XDP for Windows does not replace an attached program"
	neverRun      = "checked by the eBPF for Windows tables, PREVAIL and an interpreter of its bytecode; not run on a Windows host"
	trailingBytes = "the answer's frame keeps bytes of the client's packet behind its end, which receivers take for padding: Windows has no bpf_xdp_adjust_tail"
	noRawSockets  = "needs raw and packet sockets, and ports that the stack leaves alone, which Windows does not have"
)

// fixedSizes says what is fixed in a Windows image.
func fixedSizes() string {
	return fmt.Sprintf("fixed in the image: %d services, %d backends, %d source ranges, %d IPv4 and %d IPv6 connections, %d and %d new ones, %d affinities, %d fragmented packets, %d KiB of events",
		Services, Backends, Sources, Connections4, Connections6, NewFlows4, NewFlows6, Affinities, Fragments, EventBytes/1024)
}

func yes() Support                            { return Support{Level: Yes} }
func yesBut(note string) Support              { return Support{Yes, note} }
func partly(note string) Support              { return Support{Partly, note} }
func no(note string) Support                  { return Support{No, note} }
func everywhere() map[Profile]Support         { return on(yes(), yes(), yes()) }
func onWindows(s Support) map[Profile]Support { return on(yes(), s, s) }

func on(linux, efw021, xdp Support) map[Profile]Support {
	return map[Profile]Support{Linux: linux, EFW021: efw021, XDP: xdp}
}

// Table returns the features, those of a group together.
func Table() []Feature {
	return []Feature{
		{DSRIPIP4, "modes", "DSR by IP-in-IP, 4in4", on(yes(), yes(), no(noAdjustHead))},
		{DSRIPIP6, "modes", "DSR by IP-in-IP, 6in6", on(yes(), yes(), no(noAdjustHead))},
		{"dsr-l2", "modes", "DSR by destination MAC", everywhere()},
		{"snat", "modes", "SNAT", everywhere()},
		{"outer-spread", "modes", "Outer source spread per flow", on(yes(), yes(), no(noAdjustHead))},
		{"decap", "modes", "Decapsulation on a backend", on(yesBut("at TC ingress"), yesBut("at XDP"), no(noAdjustHead))},

		{"ipv4", "protocols", "IPv4, with options", everywhere()},
		{"ipv6", "protocols", "IPv6", everywhere()},
		{"extension-headers", "protocols", "IPv6 extension headers", map[Profile]Support{
			Linux: partly(fourHeaders), EFW021: partly(fourHeaders), XDP: partly(fourHeaders)}},
		{"tcp-udp", "protocols", "TCP and UDP services, also of all ports", everywhere()},
		{"fragments", "protocols", "Fragments follow their first one", map[Profile]Support{
			Linux: partly(firstFragment), EFW021: partly(firstFragment), XDP: partly(firstFragment)}},
		{"icmp-echo", "protocols", "Echo requests to a VIP are answered", everywhere()},
		{"icmp-errors", "protocols", "ICMP errors reach the flow they quote", everywhere()},
		{"packet-too-big", "protocols", "Answer to packets that do not fit", on(yes(), partly(trailingBytes), partly("only layer 2 and SNAT are there, where what the client could send fits; "+trailingBytes))},
		{"vlan", "protocols", "Frames with a VLAN tag pass, or are dropped if asked for", map[Profile]Support{
			Linux: partly(seenTags), EFW021: partly(seenTags), XDP: partly(seenTags)}},
		{"mss", "protocols", "TCP MSS bounded", everywhere()},

		{"maglev", "services", "Maglev and random selection", everywhere()},
		{"affinity", "services", "Session affinity", everywhere()},
		{"source-ranges", "services", "Allowed source ranges", everywhere()},
		{"weights", "services", "Weights, draining, maintenance", everywhere()},
		{TableSize, "services", "Other Maglev tables than of 16381 slots",
			onWindows(no(fmt.Sprintf("inner maps must have the template's size there, %d", MaglevSlots)))},
		{"health-direct", "services", "Health checks of a backend's own address", everywhere()},
		{HealthVIP, "services", "Health checks through the VIP's path", onWindows(no(noRawSockets))},

		{"sizes", "limits", "Map sizes can be chosen",
			on(yesBut("--max-connections, --max-services, --max-backends, --max-sources"), no(fixedSizes()), no(fixedSizes()))},
		{"max-entries", "limits", "Hash tables are bounded by the system", onWindows(partly(noMaxEntries))},

		{"events", "operation", "Flow events", everywhere()},
		{"restart", "operation", "Agent restart without loss", everywhere()},
		{"upgrade", "operation", "Program upgrade without loss", on(yesBut("the attachment's program is replaced in its link"), no(unloadFirst), no(unloadFirst))},
		{"one-interface", "operation", "Attached to one interface only", everywhere()},
		{"attachment", "operation", "The attached program can be asked for", onWindows(partly("the agent knows what it attached itself; Windows does not tell an interface's program"))},
		{"proven", "operation", "Run by tests on this system", onWindows(no(neverRun))},
	}
}

const (
	fourHeaders   = "hop-by-hop, destination options and fragment headers, 4 of them in 256 bytes; others, and routing headers, are a counted drop"
	seenTags      = "they are not balanced; a tag that the card takes off (VLAN offload) is not seen"
	firstFragment = "one that comes before the first is a counted drop; fragmented ICMP is, too"
)
