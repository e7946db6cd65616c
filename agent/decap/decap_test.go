package decap

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"l4lab/agent/api"
)

func goodOptions() Options {
	return Options{
		Interface: "eth0", Hook: TC, PinDir: "/sys/fs/bpf/decap",
		Tunnels: tunnels("20.1.1.10", "20.1.1.1"),
	}
}

// tunnels are one from a balancer to an address.
func tunnels(address, balancer string) []api.Tunnel {
	b := netip.MustParseAddr(balancer)
	return []api.Tunnel{{Address: netip.MustParseAddr(address), Balancer: netip.PrefixFrom(b, b.BitLen())}}
}

func TestOptionsThatAreWrongAreNamed(t *testing.T) {
	cases := map[string]struct {
		change func(*Options)
		want   string
	}{
		"no hook":             {func(o *Options) { o.Hook = "" }, "--hook: is missing"},
		"an unknown hook":     {func(o *Options) { o.Hook = "lwt" }, `--hook: unknown hook "lwt"; allowed are xdp, tc`},
		"generic mode at TC":  {func(o *Options) { o.Generic = true }, "--generic: is a mode of XDP"},
		"no interface":        {func(o *Options) { o.Interface = "" }, "--interface: is missing"},
		"no address":          {func(o *Options) { o.Tunnels = nil }, "--address: is missing"},
		"the address 0.0.0.0": {func(o *Options) { o.Tunnels = tunnels("0.0.0.0", "20.1.1.1") }, "--address: 0.0.0.0 is no backend's"},
		"no balancer":         {func(o *Options) { o.Tunnels[0].Balancer = netip.Prefix{} }, "--balancer: is missing for 20.1.1.10"},
		"a balancer of the other family": {func(o *Options) { o.Tunnels[0].Balancer = netip.MustParsePrefix("::/0") },
			"--balancer: is missing for 20.1.1.10"},
		"two addresses of one family":   {func(o *Options) { o.Tunnels = append(o.Tunnels, o.Tunnels[0]) }, "--address: 20.1.1.10 is the second"},
		"no pin directory":              {func(o *Options) { o.PinDir = "" }, "--pin-dir: is missing"},
		"a pin directory with a dot":    {func(o *Options) { o.PinDir = "/sys/fs/bpf/be.1" }, "refuses names with a dot"},
		"a pin directory that is a dot": {func(o *Options) { o.PinDir = "." }, "refuses names with a dot"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := goodOptions()
			c.change(&o)
			_, err := Attach(t.Context(), o)
			var option *OptionError
			if !errors.As(err, &option) || !strings.Contains(err.Error(), c.want) || option.ExitCode() != 2 {
				t.Errorf("got %v, want an OptionError with %q", err, c.want)
			}
		})
	}
}

func TestAddressesFindTheBalancerOfTheirFamily(t *testing.T) {
	got, err := Pair([]string{"20.1.1.10", "fd20::10"}, []string{"::", "10.9.0.7/16"})
	want := []api.Tunnel{
		{Address: netip.MustParseAddr("20.1.1.10"), Balancer: netip.MustParsePrefix("10.9.0.0/16")},
		{Address: netip.MustParseAddr("fd20::10"), Balancer: netip.MustParsePrefix("::/0")},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if err := checkTunnels(got); err != nil {
		t.Error(err)
	}
	if text := Describe(got); text != "what 10.9.0.0/16 sends to 20.1.1.10 and what anybody sends to fd20::10" {
		t.Errorf("described as %q", text)
	}
	for name, c := range map[string]struct{ address, balancer, want string }{
		"an address that is none":   {"be1", "20.1.1.1", `--address: "be1" is no address`},
		"a balancer that is none":   {"20.1.1.10", "lb", `--balancer: "lb" is neither`},
		"two balancers of a family": {"20.1.1.10", "20.1.1.1,20.1.1.2", "--balancer: 20.1.1.2 is the second"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Pair([]string{c.address}, strings.Split(c.balancer, ",")); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestSentinelsAskForExitCode3(t *testing.T) {
	for _, err := range []error{ErrUnsupported, ErrPermission} {
		var coded interface{ ExitCode() int }
		if wrapped := errors.Join(errors.New("context"), err); !errors.As(wrapped, &coded) || coded.ExitCode() != 3 {
			t.Errorf("%v does not ask for exit code 3", err)
		}
	}
}
