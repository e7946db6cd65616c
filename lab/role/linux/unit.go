package linux

import (
	"fmt"
	"strings"
)

// unit is one of the lab's units.
type unit struct {
	name, description string
	// oneshot: it does its work and is done; else it is a daemon that is started
	// again whenever it ends.
	oneshot bool
	// start is what it runs, each as argv; prepare what is run before.
	start, prepare [][]string
	// needs are paths whose mounts must be there.
	needs string
	record
}

// record is what the unit's X-L4lab section keeps.
type record struct {
	// Spec is what it was made from, as in role.Facts.
	Spec string
	// At is where a daemon answers: "unix PATH", "tcp ADDRESS:PORT" or "udp …".
	At string
	// Device is the interface that it works on.
	Device string
}

// text is the unit file's. Services that need the network try again until it
// is there: which target stands for "the address is set" differs between the
// tools that configure it.
func (u unit) text() string {
	var b strings.Builder
	b.WriteString("# Written by labctl, which will write it again.\n")
	fmt.Fprintf(&b, "[Unit]\nDescription=%s\nAfter=network.target network-online.target\nStartLimitIntervalSec=0\n", u.description)
	if u.needs != "" {
		fmt.Fprintf(&b, "RequiresMountsFor=%s\n", u.needs)
	}
	b.WriteString("\n[Service]\n")
	if u.oneshot {
		b.WriteString("Type=oneshot\nRemainAfterExit=yes\nRestart=on-failure\n")
	} else {
		b.WriteString("Type=exec\nRestart=always\n")
	}
	b.WriteString("RestartSec=1s\n")
	if u.needs != "" {
		// A bpffs is empty at each boot, and lbagent makes no parents of its pins.
		fmt.Fprintf(&b, "ExecStartPre=/bin/mkdir -p -m 0700 %s\n", Pins)
	}
	for _, argv := range u.prepare {
		fmt.Fprintf(&b, "ExecStartPre=%s\n", execLine(argv))
	}
	for _, argv := range u.start {
		fmt.Fprintf(&b, "ExecStart=%s\n", execLine(argv))
	}
	b.WriteString("\n[Install]\nWantedBy=multi-user.target\n\n[X-L4lab]\n")
	for _, kv := range [][2]string{{"Spec", u.Spec}, {"At", u.At}, {"Device", u.Device}} {
		if kv[1] != "" {
			fmt.Fprintf(&b, "%s=%s\n", kv[0], kv[1])
		}
	}
	return b.String()
}

// parseRecord reads the X-L4lab section of a unit file.
func parseRecord(text string) record {
	var r record
	in := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = line == "[X-L4lab]"
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !in || !ok {
			continue
		}
		switch key {
		case "Spec":
			r.Spec = value
		case "At":
			r.At = value
		case "Device":
			r.Device = value
		}
	}
	return r
}

// execLine is an argv as ExecStart= wants it (systemd.service(5), "Command
// lines"): words are quoted where they must be, % and $ are doubled.
func execLine(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		arg = strings.NewReplacer("%", "%%", "$", "$$").Replace(arg)
		if arg == "" || strings.ContainsAny(arg, " \t\n'\"\\;") {
			arg = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(arg) + `"`
		}
		words[i] = arg
	}
	return strings.Join(words, " ")
}
