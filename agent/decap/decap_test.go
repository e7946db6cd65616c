package decap

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func goodOptions() Options {
	return Options{
		Interface: "eth0", Hook: TC, PinDir: "/sys/fs/bpf/decap",
		Address: netip.MustParseAddr("20.1.1.10"), Balancer: netip.MustParseAddr("20.1.1.1"),
	}
}

func TestOptionsThatAreWrongAreNamed(t *testing.T) {
	cases := map[string]struct {
		change func(*Options)
		want   string
	}{
		"no hook":                       {func(o *Options) { o.Hook = "" }, "--hook: is missing"},
		"an unknown hook":               {func(o *Options) { o.Hook = "lwt" }, `--hook: unknown hook "lwt"; allowed are xdp, tc`},
		"generic mode at TC":            {func(o *Options) { o.Generic = true }, "--generic: is a mode of XDP"},
		"no interface":                  {func(o *Options) { o.Interface = "" }, "--interface: is missing"},
		"no address":                    {func(o *Options) { o.Address = netip.Addr{} }, "--address: is missing"},
		"an IPv6 address":               {func(o *Options) { o.Address = netip.MustParseAddr("fd00::1") }, "--address: is missing or no IPv4"},
		"the address 0.0.0.0":           {func(o *Options) { o.Address = netip.IPv4Unspecified() }, "--address: is missing"},
		"no balancer":                   {func(o *Options) { o.Balancer = netip.Addr{} }, "--balancer: is missing"},
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

func TestAnyBalancerIsAnAnswer(t *testing.T) {
	o := goodOptions()
	o.Balancer = netip.IPv4Unspecified()
	if err := o.check(); err != nil {
		t.Error(err)
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
