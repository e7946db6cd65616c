package decap

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutSysAdmin takes CAP_SYS_ADMIN from the test's thread until the test ends.
func (n *node) withoutSysAdmin() {
	n.t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	must(n.t, unix.Capget(&header, &has[0]))
	lacks := has
	lacks[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	must(n.t, unix.Capset(&header, &lacks[0]))
	n.t.Cleanup(func() { must(n.t, unix.Capset(&header, &has[0])) })
}

// Without it a process may not open the program of an attachment that is there.
func TestAttachConvergesWithoutCapSysAdmin(t *testing.T) {
	for _, c := range []struct {
		name    string
		options Options
	}{
		{"XDP", Options{Hook: XDP}},
		{"TCX", Options{Hook: TC}},
		{"a clsact filter", Options{Hook: TC, Clsact: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			n.withoutSysAdmin()
			c.options.Interface, c.options.PinDir = "eth0", n.pins
			for _, balancer := range []string{balancer, otherBalancer, otherBalancer} {
				c.options.Tunnels = tunnels(backend, balancer)
				if _, err := Attach(t.Context(), c.options); err != nil {
					t.Fatal(err)
				}
				if ids := n.programs(); len(ids) != 1 {
					t.Errorf("programs on eth0: %v", ids)
				}
				s, err := Status(t.Context(), n.pins)
				if err != nil || !s.Attached || !slices.Equal(s.Tunnels, c.options.Tunnels) {
					t.Errorf("status %+v, %v", s, err)
				}
			}
			if err := Detach(t.Context(), n.pins); err != nil {
				t.Error(err)
			}
		})
	}
}

// Native and generic XDP exclude each other, so the old one goes first, and could not be brought back.
func TestModeOfXDPIsLeftAloneWhereItCouldNotBeBroughtBack(t *testing.T) {
	n := newNode(t)
	o := Options{Hook: XDP, Interface: "eth0", PinDir: n.pins, Tunnels: tunnels(backend, balancer)}
	if _, err := Attach(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	before := n.programs()
	n.withoutSysAdmin()
	o.Generic = true
	if _, err := Attach(t.Context(), o); !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("got %v", err)
	}
	if after := n.programs(); !slices.Equal(after, before) {
		t.Errorf("programs on eth0: %v, before %v", after, before)
	}
}
