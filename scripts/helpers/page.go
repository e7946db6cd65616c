package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"l4lab/bpf/inventory"
)

// generate writes the page.
func generate() (string, error) {
	v, err := inventory.Take()
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
	b.WriteString(table("helper", v.Helpers))
	b.WriteString(`
## Map types

The numbers of the types differ between the systems, as the helpers' do; ` + "`bpf/platform/`" + ` has both. Sizes and purposes are in ` + "`bpf/lib/maps.h`" + `.

`)
	b.WriteString(table("map type", v.MapTypes))
	return b.String(), nil
}

// columns are the systems' heads.
var columns = []string{"Linux", "Windows, `efw-0.21`", "Windows, `xdp`"}

func table(what string, rows []inventory.Row) string {
	var b strings.Builder
	row := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	row(slices.Concat([]string{what}, columns, []string{"the demo", "notes"})...)
	row(slices.Repeat([]string{"---"}, len(columns)+3)...)
	for _, r := range rows {
		cells := []string{"`" + r.Name + "`"}
		for _, system := range inventory.Systems() {
			cells = append(cells, cmp.Or(quoted(r.On(system)), "–"))
		}
		note := r.Note
		if len(r.Maps) > 0 {
			note = strings.TrimSpace("Maps: " + quoted(r.Maps) + ". " + note)
		}
		row(append(cells, cmp.Or(r.Demo, "–"), note)...)
	}
	return b.String()
}

func quoted(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "`" + strings.Join(names, "`, `") + "`"
}
