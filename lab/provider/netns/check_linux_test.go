package netns

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"l4lab/lab/provider"
)

// fakeProbes answer as they are told.
type fakeProbes struct{ privileges, namespaces, links, xdp, cls error }

func (f fakeProbes) Kernel() string    { return "Linux 4.9" }
func (f fakeProbes) Privileges() error { return f.privileges }
func (f fakeProbes) Namespaces() error { return f.namespaces }
func (f fakeProbes) Links() error      { return f.links }
func (f fakeProbes) XDP() error        { return f.xdp }
func (f fakeProbes) SchedCLS() error   { return f.cls }

func TestCheckSaysWhatIsMissing(t *testing.T) {
	no := errors.New("invalid argument")
	for _, c := range []struct {
		name    string
		probes  fakeProbes
		missing string
	}{
		{"a kernel without XDP", fakeProbes{xdp: no}, "XDP: invalid argument; use a kernel"},
		{"a kernel without TC programs", fakeProbes{cls: no}, "TC programs: invalid argument"},
		{"a user who is not root", fakeProbes{privileges: fmt.Errorf("not root"), xdp: no}, "privileges: not root; run it as root"},
		{"a container without namespaces", fakeProbes{namespaces: no}, "network namespaces: invalid argument"},
		{"all there", fakeProbes{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &namespaces{probes: c.probes}
			err := provider.CheckFatal(Name, p.Check(t.Context(), provider.Lab{}))
			switch {
			case c.missing == "" && err != nil:
				t.Errorf("unexpected: %v", err)
			case c.missing != "" && (err == nil || !strings.Contains(err.Error(), c.missing)):
				t.Errorf("got %v, expected %q in it", err, c.missing)
			}
		})
	}
}
