package service

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
)

func TestPutRefuses(t *testing.T) {
	edit := func(change func(*api.Service)) api.Service {
		s := svc(2, "40.1.1.2:80", "20.1.1.30:80", "20.1.1.40:80")
		change(&s)
		return s
	}
	edit6 := func(change func(*api.Service)) api.Service {
		s := svc(2, "[fd00:40::1]:80", "[fd00::30]:80", "[fd00::40]:80")
		change(&s)
		return s
	}
	check := func(change func(*api.HealthCheck)) api.Service {
		return edit(func(s *api.Service) {
			s.HealthCheck = &api.HealthCheck{Type: "tcp"}
			change(s.HealthCheck)
		})
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
		{"a multicast frontend", edit(func(s *api.Service) { s.Frontend = addr("224.0.0.1:80") }), "frontend"},
		{"the broadcast address", edit(func(s *api.Service) { s.Frontend = addr("255.255.255.255:80") }), "frontend"},
		{"a loopback frontend", edit(func(s *api.Service) { s.Frontend = addr("127.0.0.1:80") }), "frontend"},
		{"the unspecified address", edit(func(s *api.Service) { s.Frontend = addr("0.0.0.0:80") }), "frontend"},
		{"an address of this network", edit(func(s *api.Service) { s.Frontend = addr("0.1.2.3:80") }), "frontend"},
		{"a frontend of all ports with backends of one", edit(func(s *api.Service) { s.Frontend = addr("40.1.1.2:0") }), "backends[0]"},
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
		{"a backend without a port", edit(func(s *api.Service) { s.Backends[1] = at("20.1.1.40:0") }), "backends[1]"},
		{"an IPv6 backend", edit(func(s *api.Service) { s.Backends[1] = at("[fd00::1]:80") }), "backends[1]"},
		{"an IPv4 address in IPv6's clothes", edit(func(s *api.Service) { s.Backends[1] = at("[::ffff:20.1.1.40]:80") }), "backends[1]"},
		{"another port in mode dsr", edit(func(s *api.Service) { s.Backends[0] = at("20.1.1.30:8080") }), "backends[0]"},
		{"its own frontend as a backend", edit(func(s *api.Service) { s.Backends[0] = at("40.1.1.2:80") }), "backends[0]"},
		{"another service's frontend as a backend", edit(func(s *api.Service) { s.Backends[0] = at("40.1.1.1:80") }), "backends[0]"},
		{"the balancer as a backend", edit(func(s *api.Service) { s.Backends[0] = at("20.1.1.1:80") }), "backends[0]"},
		{"an IPv6 backend of an IPv4 frontend", edit(func(s *api.Service) { s.Backends[1] = at("[fd00::10]:80") }), "backends[1]"},
		{"an IPv4 backend of an IPv6 frontend", edit(func(s *api.Service) { s.Frontend = addr("[fd00:40::1]:80") }), "backends[0]"},
		{"an IPv6 frontend of one link", edit6(func(s *api.Service) { s.Frontend = addr("[fe80::1]:80") }), "frontend"},
		{"an IPv6 frontend with a zone", edit6(func(s *api.Service) { s.Frontend = addr("[fe80::1%eth0]:80") }), "frontend"},
		{"IPv6's loopback", edit6(func(s *api.Service) { s.Frontend = addr("[::1]:80") }), "frontend"},
		{"IPv6's unspecified address", edit6(func(s *api.Service) { s.Frontend = addr("[::]:80") }), "frontend"},
		{"an IPv6 multicast backend", edit6(func(s *api.Service) { s.Backends[0] = at("[ff02::1]:80") }), "backends[0]"},
		{"the balancer's own IPv6 address", edit6(func(s *api.Service) { s.Frontend = addr("[fd00::1]:80") }), "frontend"},
		{"the balancer as an IPv6 backend", edit6(func(s *api.Service) { s.Backends[1] = at("[fd00::1]:80") }), "backends[1]"},
		{"a backend of all ports for a frontend of one", edit(func(s *api.Service) { s.Mode, s.Backends[0] = "snat", at("20.1.1.30:0") }), "backends[0]"},
		{"a weight above 1000", edit(func(s *api.Service) { s.Backends[1] = weighted(1001, "20.1.1.40:80") }), "backends[1].weight"},
		{"an unknown state", edit(func(s *api.Service) { s.Backends[1].State = "asleep" }), "backends[1].state"},
		{"the state that only a check can give", edit(func(s *api.Service) { s.Backends[1].State = "quarantined" }), "backends[1].state"},
		{"a deadline of one that does not drain", edit(func(s *api.Service) { s.Backends[1].DrainUntil = &time.Time{} }), "backends[1].drainUntil"},
		{"an unknown encapsulation", edit(func(s *api.Service) { s.Encap = "gre" }), "encap"},
		{"an unknown selection", edit(func(s *api.Service) { s.Selection = "best" }), "selection"},
		{"an outer source that is no address", edit(func(s *api.Service) { s.OuterSource = "here" }), "outerSource"},
		{"an outer source that is no prefix", edit(func(s *api.Service) { s.OuterSource = "172.16.0.0/33" }), "outerSource"},
		{"an outer source of the other family", edit(func(s *api.Service) { s.OuterSource = "fd00:1::/96" }), "outerSource"},
		{"an outer source with bits behind its length", edit(func(s *api.Service) { s.OuterSource = "172.16.0.1/16" }), "outerSource"},
		{"an outer source of most of the Internet", edit(func(s *api.Service) { s.OuterSource = "64.0.0.0/2" }), "outerSource"},
		{"an IPv6 outer source of more bits than spread", edit6(func(s *api.Service) { s.OuterSource = "fd00:1::/64" }), "outerSource"},
		{"a multicast outer source", edit(func(s *api.Service) { s.OuterSource = "224.0.0.0/8" }), "outerSource"},
		{"an outer source with the VIP in it", edit(func(s *api.Service) { s.OuterSource = "40.1.1.0/24" }), "outerSource"},
		{"an outer source with a backend in it", edit(func(s *api.Service) { s.OuterSource = "20.1.1.32/27" }), "outerSource"},
		{"an outer source for layer 2", edit(func(s *api.Service) { s.Encap, s.OuterSource = "l2", "172.16.0.0/16" }), "outerSource"},
		{"layer 2 to another port", edit(func(s *api.Service) { s.Encap, s.Backends[0] = "l2", at("20.1.1.30:8080") }), "backends[0]"},
		{"a negative affinity", edit(func(s *api.Service) { s.Affinity = -1 }), "affinity"},
		{"an affinity of a millisecond", edit(func(s *api.Service) { s.Affinity = api.Duration(time.Millisecond) }), "affinity"},
		{"an affinity of a year", edit(func(s *api.Service) { s.Affinity = api.Duration(365 * 24 * time.Hour) }), "affinity"},
		{"sources of the other family", edit(func(s *api.Service) { s.Sources = prefixes("20.0.0.0/8", "fd00::/16") }), "sources[1]"},
		{"sources with bits behind their length", edit(func(s *api.Service) { s.Sources = prefixes("20.1.1.1/24") }), "sources[0]"},
		{"a source twice", edit(func(s *api.Service) { s.Sources = prefixes("20.0.0.0/8", "20.0.0.0/8") }), "sources[1]"},
		{"a source that is none", edit(func(s *api.Service) { s.Sources = []netip.Prefix{{}} }), "sources[0]"},
		{"more sources than the map has room for", edit(func(s *api.Service) {
			for i := range byte(9) {
				s.Sources = append(s.Sources, netip.PrefixFrom(netip.AddrFrom4([4]byte{i + 1}), 8))
			}
		}), "sources"},
		{"an MSS below any path's", edit(func(s *api.Service) { s.MSS = 499 }), "mss"},
		{"an MSS above any packet's", edit(func(s *api.Service) { s.MSS = 65496 }), "mss"},
		{"an MSS for UDP", edit(func(s *api.Service) { s.Protocol, s.MSS = "udp", 1400 }), "mss"},
		{"a check that is none", check(func(c *api.HealthCheck) { c.Type = "ping" }), "healthCheck.type"},
		{"a check by an unknown way", check(func(c *api.HealthCheck) { c.Via = "moon" }), "healthCheck.via"},
		{"a path for TCP", check(func(c *api.HealthCheck) { c.Path = "/" }), "healthCheck.type"},
		{"a status for TCP", check(func(c *api.HealthCheck) { c.Status = 200 }), "healthCheck.type"},
		{"a relative path", check(func(c *api.HealthCheck) { c.Type, c.Path = "http", "healthz" }), "healthCheck.path"},
		{"a path that ends the request line", check(func(c *api.HealthCheck) { c.Type, c.Path = "http", "/ HTTP/1.1\r\nX: y" }), "healthCheck.path"},
		{"a status that is none", check(func(c *api.HealthCheck) { c.Type, c.Status = "http", 99 }), "healthCheck.status"},
		{"an interval of a nanosecond", check(func(c *api.HealthCheck) { c.Interval = 1 }), "healthCheck.interval"},
		{"a timeout longer than the interval", check(func(c *api.HealthCheck) { c.Timeout = api.Duration(time.Minute) }), "healthCheck.timeout"},
		{"a negative rise", check(func(c *api.HealthCheck) { c.Rise = -1 }), "healthCheck.rise"},
		{"a fall of more than a thousand", check(func(c *api.HealthCheck) { c.Fall = 1001 }), "healthCheck.fall"},
		{"a check of all ports without a port", func() api.Service {
			s := check(func(*api.HealthCheck) {})
			s.Frontend, s.Backends = addr("40.1.1.2:0"), []api.Backend{at("20.1.1.30:0")}
			return s
		}(), "healthCheck.port"},
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
		{"an IPv6 service", svc(2, "[fd00:40::1]:80", "[fd00::30]:80")},
		{"a service of all ports beside one of one", svc(2, "40.1.1.1:0", "20.1.1.10:0")},
		{"layer 2", func() api.Service {
			s := svc(2, "40.1.1.2:80", "20.1.1.30:80")
			s.Encap = "l2"
			return s
		}()},
		{"an encapsulation in mode snat, for when it is dsr again", func() api.Service {
			s := svc(2, "40.1.1.2:80", "20.1.1.30:80")
			s.Mode, s.Encap = "snat", "l2"
			return s
		}()},
		{"everything at its bounds", func() api.Service {
			s := svc(2, "40.1.1.2:80", "20.1.1.40:80")
			s.Backends = append(s.Backends, weighted(1000, "20.1.1.30:80"))
			s.OuterSource, s.MSS, s.Affinity = "172.0.0.0/8", 500, api.Duration(time.Second)
			s.Sources = prefixes("0.0.0.0/0", "20.1.1.1/32")
			s.HealthCheck = &api.HealthCheck{Type: "http", Via: "vip", Port: 1, Path: "/", Status: 599, Interval: api.Duration(time.Hour), Rise: 100, Fall: 100}
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

func TestFullMapIsNamedWithItsSize(t *testing.T) {
	for _, c := range []struct {
		name string
		fill func(m *Manager) error
		says string
	}{
		{"services", func(m *Manager) (err error) {
			for id := uint32(1); id <= 5 && err == nil; id++ {
				_, err = m.Put(t.Context(), svc(id, fmt.Sprintf("40.1.1.%d:80", id), "20.1.1.10:80"))
			}
			return err
		}, "the map `services` holds 4"},
		{"backends", func(m *Manager) error {
			s := svc(1, "40.1.1.1:80")
			s.Backends = many(16)
			_, err := m.Put(t.Context(), s)
			return err
		}, "the map `backends` holds 15"},
		{"backends, of which some have left", func(m *Manager) error {
			s := svc(1, "40.1.1.1:80")
			s.Backends = many(10)
			if _, err := m.Put(t.Context(), s); err != nil {
				return err
			}
			if err := m.Delete(t.Context(), 1); err != nil {
				return err
			}
			_, err := m.Put(t.Context(), func() api.Service { s.ID = 2; return s }())
			return err
		}, "10 of them may still have connections"},
		{"sources", func(m *Manager) (err error) {
			for id := uint32(1); id <= 4 && err == nil; id++ {
				s := svc(id, fmt.Sprintf("40.1.1.%d:80", id), "20.1.1.10:80")
				s.Sources = prefixes("20.0.0.0/8", "30.0.0.0/8", "50.0.0.0/8")
				_, err = m.Put(t.Context(), s)
			}
			return err
		}, "the map `sources` holds 8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.fill(open(t, newFakeStore(t), "")); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

// Without an address of its family the balancer has nothing to send from.
func TestFamilyWithoutAnAddressOfTheBalancer(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*api.Service)
		field  string
	}{
		{"IP-in-IP has no source", func(*api.Service) {}, "outerSource"},
		{"IP-in-IP from another source", func(s *api.Service) { s.OuterSource = "fd00:1::1" }, ""},
		{"layer 2 needs none", func(s *api.Service) { s.Encap = "l2" }, ""},
		{"SNAT is not possible", func(s *api.Service) { s.Mode = "snat" }, "mode"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t, newFakeStore(t), "")
			m.own6 = netip.Addr{}
			s := svc(1, "[fd00:40::1]:80", "[fd00::10]:80")
			c.change(&s)
			if _, err := m.Put(t.Context(), s); fieldOf(err) != c.field || (err == nil) != (c.field == "") {
				t.Errorf("got %v, want a refusal of %q", err, c.field)
			}
		})
	}
}

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// FuzzServices puts whatever the API can read: it is refused with a field, or the maps are as it says.
func FuzzServices(f *testing.F) {
	f.Add(`{"frontend":"40.1.1.1:80","backends":["20.1.1.10:80"]}`, `{"frontend":"40.1.1.1:80","mode":"snat","backends":[{"address":"20.1.1.11:8080","weight":0}]}`)
	f.Add(`{"frontend":"[fd00:40::1]:0","backends":["[fd00::10]:0"],"encap":"l2","affinity":"90s","sources":["fd00::/16"]}`,
		`{"frontend":"[fd00:40::1]:0","backends":[{"address":"[fd00::11]:0","state":"draining","drainUntil":"2020-01-01T00:00:00Z"}],"outerSource":"fd00:1::/100"}`)
	f.Add(`{"frontend":"40.1.1.1:53","protocol":"udp","backends":["20.1.1.10:53"],"healthCheck":{"type":"http","port":80,"path":"/x"},"selection":"random"}`, `{}`)
	f.Fuzz(func(t *testing.T, first, second string) {
		store := newFakeStore(t)
		m := open(t, store, "")
		var has []api.Service
		for _, text := range []string{first, second} {
			var s api.Service
			if api.Decode([]byte(text), &s) != nil {
				return
			}
			s.ID, s.Revision = 1, 0
			if s.TableSize == 0 {
				s.TableSize = 251
			}
			stored, err := m.Put(t.Context(), s)
			switch {
			case err != nil && fieldOf(err) == "":
				t.Errorf("%s: got %v", text, err)
			case err == nil:
				has = []api.Service{stored}
			}
			wantMaps(t, store, has...)
		}
	})
}

// many returns n backends on port 80.
func many(n int) []api.Backend {
	list := make([]api.Backend, n)
	for i := range list {
		list[i].Address = netip.AddrPortFrom(netip.AddrFrom4([4]byte{30, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
	}
	return list
}
