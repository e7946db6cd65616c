package service

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"l4lab/agent/api"
)

func TestPutRefuses(t *testing.T) {
	edit := func(change func(*api.Service)) api.Service {
		s := svc(2, "40.1.1.2:80", "20.1.1.30:80", "20.1.1.40:80")
		change(&s)
		return s
	}
	addr := netip.MustParseAddrPort
	for _, c := range []struct {
		name    string
		service api.Service
		field   string
	}{
		{"id zero", edit(func(s *api.Service) { s.ID = 0 }), "id"},
		{"an id above 2^31", edit(func(s *api.Service) { s.ID = 1<<31 + 1 }), "id"},
		{"no frontend", edit(func(s *api.Service) { s.Frontend = netip.AddrPort{} }), "frontend"},
		{"an IPv6 frontend", edit(func(s *api.Service) { s.Frontend = addr("[fd00::1]:80") }), "frontend"},
		{"a multicast frontend", edit(func(s *api.Service) { s.Frontend = addr("224.0.0.1:80") }), "frontend"},
		{"the broadcast address", edit(func(s *api.Service) { s.Frontend = addr("255.255.255.255:80") }), "frontend"},
		{"a loopback frontend", edit(func(s *api.Service) { s.Frontend = addr("127.0.0.1:80") }), "frontend"},
		{"the unspecified address", edit(func(s *api.Service) { s.Frontend = addr("0.0.0.0:80") }), "frontend"},
		{"an address of this network", edit(func(s *api.Service) { s.Frontend = addr("0.1.2.3:80") }), "frontend"},
		{"port zero", edit(func(s *api.Service) { s.Frontend = addr("40.1.1.2:0") }), "frontend"},
		{"another service's frontend", edit(func(s *api.Service) { s.Frontend = addr("40.1.1.1:80") }), "frontend"},
		{"a frontend that is another service's backend", edit(func(s *api.Service) { s.Frontend = addr("20.1.1.10:80") }), "frontend"},
		{"the balancer's own address", edit(func(s *api.Service) { s.Frontend = addr("20.1.1.1:80") }), "frontend"},
		{"a frontend that is its own backend on another port", edit(func(s *api.Service) {
			s.Mode, s.Frontend = "snat", addr("20.1.1.30:8080")
		}), "backends[0]"},
		{"an unknown protocol", edit(func(s *api.Service) { s.Protocol = "sctp" }), "protocol"},
		{"an unknown mode", edit(func(s *api.Service) { s.Mode = "nat" }), "mode"},
		{"a table size that is not in the list", edit(func(s *api.Service) { s.TableSize = 1000 }), "tableSize"},
		{"no backends", edit(func(s *api.Service) { s.Backends = nil }), "backends"},
		{"the same backend twice", edit(func(s *api.Service) { s.Backends[1] = s.Backends[0] }), "backends[1]"},
		{"a backend without a port", edit(func(s *api.Service) { s.Backends[1] = addr("20.1.1.40:0") }), "backends[1]"},
		{"an IPv6 backend", edit(func(s *api.Service) { s.Backends[1] = addr("[fd00::1]:80") }), "backends[1]"},
		{"an IPv4 address in IPv6's clothes", edit(func(s *api.Service) { s.Backends[1] = addr("[::ffff:20.1.1.40]:80") }), "backends[1]"},
		{"another port in mode dsr", edit(func(s *api.Service) { s.Backends[0] = addr("20.1.1.30:8080") }), "backends[0]"},
		{"its own frontend as a backend", edit(func(s *api.Service) { s.Backends[0] = addr("40.1.1.2:80") }), "backends[0]"},
		{"another service's frontend as a backend", edit(func(s *api.Service) { s.Backends[0] = addr("40.1.1.1:80") }), "backends[0]"},
		{"the balancer as a backend", edit(func(s *api.Service) { s.Backends[0] = addr("20.1.1.1:80") }), "backends[0]"},
		{"more backends than the map has room for", edit(func(s *api.Service) { s.Backends = many(15) }), "backends"},
		{"more backends than slots", edit(func(s *api.Service) { s.Backends = many(252) }), "backends"},
		{"70,000 backends", edit(func(s *api.Service) { s.Backends, s.TableSize = many(70000), 131071 }), "backends"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newFakeStore(t)
			m := open(t, store, "")
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
			before := store.snapshot()
			store.writes = nil
			_, err := m.Put(t.Context(), c.service)
			if fieldOf(err) != c.field {
				t.Errorf("got %v, want a refusal of %q", err, c.field)
			}
			if len(store.writes) != 0 || store.snapshot() != before {
				t.Errorf("the maps were written: %q", store.writes)
			}
		})
	}
}

func TestPutAccepts(t *testing.T) {
	for _, c := range []struct {
		name    string
		service api.Service
	}{
		{"the largest id", svc(1<<31, "40.1.1.2:80", "20.1.1.30:80")},
		{"the frontend of a TCP service for UDP", func() api.Service {
			s := svc(2, "40.1.1.1:80", "20.1.1.30:80")
			s.Protocol = "udp"
			return s
		}()},
		{"another service's backend", svc(2, "40.1.1.2:80", "20.1.1.10:80")},
		{"another port in mode snat", func() api.Service {
			s := svc(2, "40.1.1.2:80", "20.1.1.30:8080")
			s.Mode = "snat"
			return s
		}()},
		{"one backend with two ports in mode snat", func() api.Service {
			s := svc(2, "40.1.1.2:80", "20.1.1.30:8080", "20.1.1.30:8081")
			s.Mode = "snat"
			return s
		}()},
		{"as many backends as the map has room for", func() api.Service {
			s := svc(2, "40.1.1.2:80")
			s.Backends = many(14)
			return s
		}()},
		{"its own frontend again", svc(1, "40.1.1.1:80", "20.1.1.40:80")},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t, newFakeStore(t), "")
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
			mustPut(t, m, c.service)
		})
	}
}

func TestDefaultsAreFilledIn(t *testing.T) {
	m := open(t, newFakeStore(t), "")
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	s.Protocol, s.Mode, s.TableSize = "", "", 0
	got, err := m.Put(t.Context(), s)
	if err != nil || got.Protocol != "tcp" || got.Mode != "dsr" || got.TableSize != 16381 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWhatAnUpdateLeavesOpenStaysAsItIs(t *testing.T) {
	m := open(t, newFakeStore(t), "")
	has := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	has.Protocol, has.Mode, has.TableSize = "udp", "snat", 509
	mustPut(t, m, has)
	update := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	update.Protocol, update.Mode, update.TableSize = "", "", 0
	got, err := m.Put(t.Context(), update)
	if err != nil || got.Protocol != "udp" || got.Mode != "snat" || got.TableSize != 509 || len(got.Backends) != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	update.Mode, update.TableSize = "dsr", 251
	if got, err := m.Put(t.Context(), update); err != nil || got.Mode != "dsr" || got.TableSize != 251 {
		t.Errorf("what it does say: got %+v, %v", got, err)
	}
}

func TestServicesHaveNoMoreRoomThanTheMap(t *testing.T) {
	m := open(t, newFakeStore(t), "")
	for id := uint32(1); id <= 4; id++ {
		mustPut(t, m, svc(id, fmt.Sprintf("40.1.1.%d:80", id), "20.1.1.10:80"))
	}
	_, err := m.Put(t.Context(), svc(5, "40.1.1.5:80", "20.1.1.10:80"))
	if fieldOf(err) != "id" {
		t.Errorf("got %v", err)
	}
}

func TestTableSizeIsFixedWhereTheSystemFixesIt(t *testing.T) {
	store := newFakeStore(t)
	store.limits.TableSize = 16381
	m := open(t, store, "")
	if _, err := m.Put(t.Context(), svc(1, "40.1.1.1:80", "20.1.1.10:80")); fieldOf(err) != "tableSize" {
		t.Errorf("got %v", err)
	}
}

func TestTakenFrontendIsAConflict(t *testing.T) {
	m := open(t, newFakeStore(t), "")
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
	if _, err := m.Put(t.Context(), svc(2, "40.1.1.1:80", "20.1.1.20:80")); !errors.Is(err, api.ErrConflict) {
		t.Errorf("got %v", err)
	}
}

// many returns n backends on port 80.
func many(n int) []netip.AddrPort {
	list := make([]netip.AddrPort, n)
	for i := range list {
		list[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{30, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
	}
	return list
}
