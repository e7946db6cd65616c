package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestTheServicesCommandLineIsServeWithItsFlags(t *testing.T) {
	flags := []string{"--device", "Ethernet 2", "--image", `C:\lb\lb.sys`, "--mode=snat"}
	got, err := serviceCommandLine(flags)
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]string{"serve"}, flags...); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestAServiceThatCouldNotStartIsNotInstalled(t *testing.T) {
	for name, c := range map[string]struct {
		flags []string
		want  string
	}{
		"no device":          {nil, "device"},
		"no such flag":       {[]string{"--device", "e", "--nonsense"}, "nonsense"},
		"a stray argument":   {[]string{"--device", "e", "stray"}, "stray"},
		"a flag's bad value": {[]string{"--device", "e", "--generic=perhaps"}, "perhaps"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serviceCommandLine(c.flags)
			var usage usageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one of usage that names %q", err, c.want)
			}
		})
	}
}

func TestEachCommandHasALogOfItsOwnAsAService(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"serve --device Ethernet", "lbagent.log"}, {"web --name be1", "lbagent-web.log"}, {"decap attach", "lbagent-decap.log"}, {"", "lbagent.log"},
	} {
		if got := serviceLog(strings.Fields(c.line)); got != c.want {
			t.Errorf("%q logs to %s, want %s", c.line, got, c.want)
		}
	}
}
