package hvsim

import (
	"strings"
	"testing"

	"l4lab/lab/provider/hyperv/scripts"
)

// hostileNames are what bit other tools that put names into text of scripts.
func hostileNames() map[string]string {
	return map[string]string{
		"a single quote":             `l4lab'; Remove-Item C:\ -Recurse; '`,
		"a double quote":             `l4lab"x`,
		"a dollar":                   `l4lab$(Stop-Computer)$env:USERNAME`,
		"a backtick":                 "l4lab`n`0",
		"a here-string's end":        "l4lab\n'@\n\"@\n",
		"braces and percent":         `l4lab{0}%PATH%{{.}}`,
		"a wildcard":                 `l4lab*[a-z]?`,
		"leading and trailing space": ` l4lab `,
		"unicode":                    "läb-実験室-лаб",
		"beyond the basic plane":     "l4lab-\U0001F9EA\U0001F310",
		"typographic quotes":         "l4lab‘x’“y”",
		"right to left":              "l4lab-\u202Egnp\u202C",
		"an envelope's end":          "-----END l4lab " + nonce + "-----",
		"XML":                        `<a>&amp;]]>`,
		"a path":                     `..\..\x/y`,
		"255 characters":             strings.Repeat("ä", 255),
	}
}

func TestHostileNamesAreDataThroughTheWholeChain(t *testing.T) {
	b := newBench(t, Options{})
	b.upload(folder+`\l4lab.mark`, []byte(mark))
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("lb"), Parent: linuxImage, Folder: folder})
	for name, hostile := range hostileNames() {
		t.Run(name, func(t *testing.T) { hostileRound(bench{t, b.h, b.r, b.v}, hostile) })
	}
}

// hostileRound makes, finds and removes a switch and a machine of a name.
func hostileRound(b bench, name string) {
	b.t.Helper()
	ensure := scripts.SwitchEnsureParams{Name: name, Mark: mark}
	if r := must(b, b.v.SwitchEnsure, ensure); r.Switch.Name != name {
		b.t.Errorf("the switch is %q", r.Switch.Name)
	}
	p := describe("lb")
	p.Name, p.Switch = name, name
	vm := must(b, b.v.VMEnsure, p).Machine
	if vm.Name != name || vm.Switch != name {
		b.t.Errorf("the machine is %q on %q", vm.Name, vm.Switch)
	}
	checkpoint := scripts.CheckpointParams{ID: vm.ID, Mark: mark, Name: name}
	must(b, b.v.CheckpointCreate, checkpoint)
	must(b, b.v.VMStart, scripts.VMParams{ID: vm.ID, Mark: mark})
	got := must(b, b.v.LabObserve, scripts.LabObserveParams{Mark: mark, Switch: name, Names: []string{name}, Folder: folder})
	if got.Switch == nil || got.Switch.Name != name || len(got.Machines) != 1 || got.Machines[0].Name != name || got.Machines[0].Checkpoints[0] != name || len(got.Foreign) != 0 {
		b.t.Errorf("observed %+v", got)
	}
	refuse(b, b.v.SwitchRemove, scripts.SwitchRemoveParams{Name: name, Mark: mark}, "inUse")
	refuse(b, b.v.SwitchEnsure, scripts.SwitchEnsureParams{Name: name, Mark: others}, "foreign")
	must(b, b.v.CheckpointRestore, checkpoint)
	must(b, b.v.CheckpointRemove, checkpoint)
	if r := must(b, b.v.VMRemove, scripts.VMRemoveParams{Name: name, Node: "lb", Mark: mark, Folder: folder}); !r.Removed {
		b.t.Error("the machine stayed")
	}
	if r := must(b, b.v.SwitchRemove, scripts.SwitchRemoveParams{Name: name, Mark: mark}); !r.Removed {
		b.t.Error("the switch stayed")
	}
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("lb"), Parent: linuxImage, Folder: folder})
}
