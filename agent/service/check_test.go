package service

import (
	"net/netip"
	"slices"
	"testing"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

func TestCheckFindsAllFaultsAtOnce(t *testing.T) {
	bad := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.10:80", "20.1.1.11:81", "[fd00::1]:80")
	bad.Mode, bad.TableSize, bad.MSS = "nat", 252, 3
	bad.HealthCheck = &api.HealthCheck{Type: "ping"}
	for _, c := range []struct {
		name     string
		services []api.Service
		on       Balancer
		fields   []string
	}{
		{"none", []api.Service{svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.10:80")}, Balancer{}, nil},
		{"of one service", []api.Service{bad}, Balancer{}, []string{
			"services[0].mode", "services[0].tableSize", "services[0].mss", "services[0].healthCheck.type",
			"services[0].backends[1]", "services[0].backends[3]"}},
		{"of several", []api.Service{svc(0, "40.1.1.1:80", "20.1.1.10:80"), {ID: 2}}, Balancer{}, []string{
			"services[0].id", "services[1].frontend", "services[1].backends"}},
		{"an id and a frontend twice", []api.Service{svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(1, "40.1.1.2:80", "20.1.1.10:80"),
			svc(2, "40.1.1.1:80", "20.1.1.10:80")}, Balancer{}, []string{"services[1].id", "services[2].frontend"}},
		{"loops", []api.Service{svc(1, "40.1.1.1:80", "40.1.1.1:80", "40.1.1.2:80"), svc(2, "40.1.1.2:80", "20.1.1.10:80")}, Balancer{},
			[]string{"services[0].backends[0]", "services[0].backends[1]", "services[1].frontend"}},
		{"a balancer that is a backend and a frontend", []api.Service{svc(1, "20.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.1:80")},
			Balancer{Own4: netip.MustParseAddr("20.1.1.1")},
			[]string{"services[0].frontend", "services[0].frontend", "services[1].backends[0]"}},
		{"a family without an address", []api.Service{svc(1, "[fd00:40::1]:80", "[fd00::10]:80")}, Balancer{Own4: netip.MustParseAddr("20.1.1.1"), Known: true},
			[]string{"services[0].outerSource"}},
		{"a family whose address is not known", []api.Service{svc(1, "[fd00:40::1]:80", "[fd00::10]:80")}, Balancer{Own4: netip.MustParseAddr("20.1.1.1")}, nil},
		{"more than there is room for", []api.Service{svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.11:80"), svc(2, "40.1.1.2:80", "20.1.1.10:80")},
			Balancer{Limits: datapath.Limits{Services: 1, Backends: 2}}, []string{"services", "services"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var fields []string
			for _, f := range Check(c.services, c.on) {
				fields = append(fields, f.Field)
				if f.Message == "" {
					t.Errorf("%s has no message", f.Field)
				}
			}
			if !slices.Equal(fields, c.fields) {
				t.Errorf("faults in\n%q, want\n%q", fields, c.fields)
			}
		})
	}
}

func TestCheckFindsWhatApplyRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		all  []api.Service
	}{
		{"no backends", []api.Service{svc(1, "40.1.1.1:80")}},
		{"mixed families", []api.Service{svc(1, "40.1.1.1:80", "[fd00::10]:80")}},
		{"another port in DSR", []api.Service{svc(1, "40.1.1.1:80", "20.1.1.10:8080")}},
		{"a frontend twice", []api.Service{svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.1:80", "20.1.1.10:80")}},
		{"a chain of VIPs", []api.Service{svc(1, "40.1.1.1:80", "40.1.1.2:80"), svc(2, "40.1.1.2:80", "20.1.1.10:80")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t, newFakeStore(t), "")
			_, err := m.Apply(t.Context(), c.all)
			if faults := Check(c.all, Balancer{Own4: netip.MustParseAddr("20.1.1.1")}); err == nil || len(faults) == 0 {
				t.Errorf("Apply: %v; Check: %v", err, faults)
			}
		})
	}
}
