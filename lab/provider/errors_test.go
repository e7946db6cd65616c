package provider_test

import (
	"errors"
	"reflect"
	"testing"

	"l4lab/lab/provider"
)

func TestCheckFatal(t *testing.T) {
	root := provider.Requirement{Name: "root", Fatal: true, Found: "user 1000", Remedy: "run it with sudo"}
	kernel := provider.Requirement{Name: "kernel 5.15 or newer", Fatal: true, Found: "5.4.0"}
	offload := provider.Requirement{Name: "fast clock", Found: "hpet", Remedy: "boot with clocksource=tsc"}
	fine := provider.Requirement{Name: "XDP on veth", OK: true, Fatal: true, Found: "native"}
	cases := []struct {
		name         string
		requirements []provider.Requirement
		missing      []provider.Requirement
		text         string
	}{
		{name: "no requirements are met"},
		{name: "what is there is no error", requirements: []provider.Requirement{fine}},
		{name: "what is missing and not fatal is no error", requirements: []provider.Requirement{fine, offload}},
		{
			name: "what is missing and fatal is told with its remedy", requirements: []provider.Requirement{fine, root, offload},
			missing: []provider.Requirement{root},
			text:    "provider netns cannot run here:\n  root: user 1000; run it with sudo",
		},
		{
			name: "all that is missing is told at once, in order", requirements: []provider.Requirement{root, fine, kernel},
			missing: []provider.Requirement{root, kernel},
			text:    "provider netns cannot run here:\n  root: user 1000; run it with sudo\n  kernel 5.15 or newer: 5.4.0",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := provider.CheckFatal("netns", c.requirements)
			if c.missing == nil {
				if err != nil {
					t.Errorf("error %v, want none", err)
				}
				return
			}
			var missing *provider.MissingError
			if !errors.As(err, &missing) {
				t.Fatalf("error %v, want a *MissingError", err)
			}
			if missing.Provider != "netns" || !reflect.DeepEqual(missing.Missing, c.missing) {
				t.Errorf("missing %+v, want %+v", missing, c.missing)
			}
			if err.Error() != c.text {
				t.Errorf("text\n%s\nwant\n%s", err, c.text)
			}
		})
	}
}
