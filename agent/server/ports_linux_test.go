package server

import (
	"strings"
	"testing"
)

func TestOverlapOfPortsIsToldWithItsRemedy(t *testing.T) {
	for _, c := range []struct {
		name, text string
		overlaps   bool
	}{
		{"Linux's default range", "32768\t60999\n", true},
		{"a range that ends in the pool", "1024\t32768\n", true},
		{"a range above the pool's begin", "50000\t50001\n", true},
		{"a range below the pool", "1024\t32767\n", false},
		{"a file that does not hold two numbers", "x", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			warning := overlapOf(c.text, 32768, 65535)
			if (warning != "") != c.overlaps {
				t.Errorf("got %q", warning)
			}
			if c.overlaps && !strings.Contains(warning, `sysctl -w net.ipv4.ip_local_port_range="1024 32767"`) {
				t.Errorf("no remedy in %q", warning)
			}
		})
	}
}
