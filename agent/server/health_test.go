package server

import (
	"errors"
	"net/netip"
	"testing"

	"l4lab/agent/device"
	"l4lab/agent/health"
	"l4lab/agent/health/path"
)

func TestProberFollowsTheDevicesAddresses(t *testing.T) {
	four, six := netip.MustParseAddr("20.1.1.1"), netip.MustParseAddr("fd00::1")
	v := &vipProber{options: path.Options{Interface: "no-such-interface", Addresses: []netip.Addr{four}}}
	if err := v.follow(device.Device{Address4: four}); err != nil || len(v.options.Addresses) != 1 {
		t.Errorf("the same address: %v, %v", v.options.Addresses, err)
	}
	if err := v.follow(device.Device{Address4: four, Address6: six}); err != nil || len(v.options.Addresses) != 2 {
		t.Errorf("another address: %v, %v", v.options.Addresses, err)
	}
}

func TestProberThatCannotOpenItsSocketsQuarantinesNobody(t *testing.T) {
	v := &vipProber{options: path.Options{Interface: "no-such-interface", Addresses: []netip.Addr{netip.MustParseAddr("20.1.1.1")}}}
	if err := v.Probe(t.Context(), health.Target{}); !errors.Is(err, health.ErrInconclusive) {
		t.Errorf("got %v", err)
	}
	if err := v.close(); err != nil {
		t.Error(err)
	}
	if err := v.Probe(t.Context(), health.Target{}); !errors.Is(err, path.ErrClosed) || !errors.Is(err, health.ErrInconclusive) {
		t.Errorf("once closed: got %v", err)
	}
}
