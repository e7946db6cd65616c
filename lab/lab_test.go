package lab_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"l4lab/lab"
	"l4lab/lab/role"
	"l4lab/lab/state"
	"l4lab/topology"
)

func TestWhatNeedsALabThatIsUp(t *testing.T) {
	calls := map[string]func(ctx context.Context, l *lab.Lab) error{
		"Topology": func(_ context.Context, l *lab.Lab) error { _, err := l.Topology(); return err },
		"Machine":  func(_ context.Context, l *lab.Lab) error { _, err := l.Machine("lb"); return err },
		"Agent":    func(_ context.Context, l *lab.Lab) error { _, err := l.Agent(); return err },
		"Status":   func(ctx context.Context, l *lab.Lab) error { _, err := l.Status(ctx); return err },
		"Logs":     func(ctx context.Context, l *lab.Lab) error { _, err := l.Logs(ctx, "lb"); return err },
		"MACs":     func(ctx context.Context, l *lab.Lab) error { _, err := l.MACs(ctx); return err },
		"StopPage": func(ctx context.Context, l *lab.Lab) error { return l.StopPage(ctx, "be1") },
		"Mode":     func(ctx context.Context, l *lab.Lab) error { return l.Mode(ctx, 0, topology.SNAT) },
	}
	for name, call := range calls {
		t.Run(name+" says how to bring it up", func(t *testing.T) {
			s := newSite(t)
			err := call(t.Context(), s.lab())
			if !errors.Is(err, lab.ErrNotUp) || !strings.Contains(err.Error(), "labctl up") {
				t.Errorf("error %v, want ErrNotUp with what to do", err)
			}
			s.nothingLeft(t)
		})
		t.Run(name+" says that the state is damaged", func(t *testing.T) {
			s := newSite(t)
			s.up(t)
			writeState(t, s, "")
			if err := call(t.Context(), s.lab()); !errors.Is(err, state.ErrDamaged) {
				t.Errorf("error %v, want ErrDamaged", err)
			}
		})
	}
}

func TestMode(t *testing.T) {
	cases := []struct {
		name      string
		service   uint32
		fail      error
		want      []topology.Mode // of services 1 and 2, in the world and in the state
		says      string
		wantCalls int
	}{
		{name: "of every service is switched and remembered", service: 0, want: []topology.Mode{topology.SNAT, topology.SNAT}, wantCalls: 1},
		{name: "of one service leaves the others", service: 1, want: []topology.Mode{topology.SNAT, topology.DSR}, wantCalls: 1},
		{name: "of a service that is not there changes nothing", service: 7, want: []topology.Mode{topology.DSR, topology.DSR}, says: "lab l4lb has no service 7"},
		{
			name: "that the agent refuses is not remembered", fail: errBoom, want: []topology.Mode{topology.DSR, topology.DSR},
			says: "lb (20.1.1.1): switch to snat: the disk is full", wantCalls: 1,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, top := newSite(t), topology.Default()
			second := secondService()
			second.Mode = topology.DSR
			top.Services = append(top.Services, second)
			if _, err := s.lab().Up(t.Context(), top, upOptions); err != nil {
				t.Fatal(err)
			}
			s.forget()
			s.meddle = func(string) fault { return fault{err: c.fail} }
			err := s.lab().Mode(t.Context(), c.service, topology.SNAT)
			s.meddle = nil
			if (err == nil) != (c.says == "") || err != nil && err.Error() != c.says {
				t.Errorf("error %v, want %q", err, c.says)
			}
			if calls := s.called(); len(calls) != c.wantCalls {
				t.Errorf("did %v", calls)
			}
			remembered, err := s.lab().Topology()
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range c.want {
				if got := s.Machines["l4lb/lb"].Services[uint32(i+1)].Mode; got != string(want) {
					t.Errorf("the agent has service %d in mode %s, want %s", i+1, got, want)
				}
				if got := remembered.Services[i].Mode; got != want {
					t.Errorf("service %d is remembered in mode %s, want %s", i+1, got, want)
				}
			}
			s.forget()
			if _, err := s.lab().Up(t.Context(), remembered, upOptions); err != nil || len(s.called()) > 0 {
				t.Errorf("an up of what is remembered did %v, %v", s.called(), err)
			}
		})
	}
}

func TestLogs(t *testing.T) {
	s := newSite(t)
	s.up(t)
	for machine, want := range map[string]string{"lb": "agent.log of lb", "be1": "web.log of be1", "client": ""} {
		logs, err := s.lab().Logs(t.Context(), machine)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, name := range slices.Sorted(maps.Keys(logs)) {
			data, err := io.ReadAll(logs[name])
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(data))
			if err := logs[name].Close(); err != nil {
				t.Error(err)
			}
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("logs of %s are %q, want %q", machine, got, want)
		}
	}
}

func TestStatusOfALabThatIsWell(t *testing.T) {
	s := newSite(t)
	s.up(t)
	st, err := s.lab().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !st.Healthy || st.Name != "l4lb" || st.Provider != "fake" || st.Phase != state.Up {
		t.Errorf("status %+v", st)
	}
	var names, emulated []string
	for _, n := range st.Nodes {
		names = append(names, n.Name)
		if n.Emulated {
			emulated = append(emulated, n.Name)
		}
		if n.Name == "client" && n.OS != topology.Windows {
			t.Errorf("the client runs %s, not what the provider says", n.OS)
		}
		if !n.Healthy || n.State != lab.NodeUp {
			t.Errorf("%s is %s: %s", n.Name, n.State, n.Health)
		}
	}
	if want := []string{"lb", "be1", "be2", "be3", "be4", "client"}; !slices.Equal(names, want) {
		t.Errorf("nodes %v, want %v", names, want)
	}
	if want := []string{"lb", "be1", "be2"}; !slices.Equal(emulated, want) {
		t.Errorf("emulated %v, want %v", emulated, want)
	}
	if len(st.Services) != 1 || !st.Services[0].Healthy || len(st.Services[0].Backends) != 4 {
		t.Fatalf("services %+v", st.Services)
	}
	if b := st.Services[0].Backends[2]; b.Node != "be3" || b.RxPackets != 7 {
		t.Errorf("the third backend is %+v", b)
	}
}

func TestStatusTellsWhatIsWrong(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(s *site)
		// node or service is the one that is unwell, says what its health says.
		node, says string
		state      lab.NodeState
		service    string
	}{
		{
			name: "a machine is missing", spoil: func(s *site) { delete(s.Machines, "l4lb/be2") },
			node: "be2", state: lab.NodeMissing, says: "missing; `labctl up` makes it again",
		},
		{
			name: "an address is wrong", spoil: func(s *site) { s.change("l4lb/be2", func(m *machine) { m.MTU = 1400 }) },
			node: "be2", state: lab.NodeFaulty, says: "mtu 1400 -> 1500",
		},
		{
			name: "a web server exited", spoil: func(s *site) {
				s.change("l4lb/be1", func(m *machine) { m.exited[role.SubjectPage] = true })
			},
			node: "be1", state: lab.NodeUp, says: "page: exited",
		},
		{
			name: "a decapsulation program is gone", spoil: func(s *site) { s.change("l4lb/be3", func(m *machine) { m.Decap = "" }) },
			node: "be3", state: lab.NodeUp, says: "no decapsulation",
		},
		{
			name: "a route is gone", spoil: func(s *site) { s.change("l4lb/client", func(m *machine) { m.Routes = nil }) },
			node: "client", state: lab.NodeUp, says: "a route to a VIP is missing",
		},
		{
			name: "the agent exited", spoil: func(s *site) {
				s.change("l4lb/lb", func(m *machine) { m.exited[role.SubjectAgent] = true })
			},
			node: "lb", state: lab.NodeUp, says: "agent: exited", service: "agent does not answer",
		},
		{
			name: "the agent lost a service", spoil: func(s *site) {
				s.change("l4lb/lb", func(m *machine) { clear(m.Services) })
			},
			service: "the agent does not have it",
		},
		{
			name: "the agent has a service otherwise", spoil: func(s *site) {
				s.change("l4lb/lb", func(m *machine) {
					service := m.Services[1]
					service.Mode = "snat"
					m.Services[1] = service
				})
			},
			service: "not as wanted: mode snat -> dsr",
		},
		{name: "the switch is missing", spoil: func(s *site) { delete(s.Switches, "l4lb") }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.up(t)
			c.spoil(s)
			st, err := s.lab().Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if st.Healthy {
				t.Error("the lab is called healthy")
			}
			for _, n := range st.Nodes {
				switch unwell := n.Name == c.node; {
				case unwell && (n.Healthy || n.State != c.state || !strings.Contains(n.Health, c.says)):
					t.Errorf("%s is %s, healthy %v: %q; want %s: %q", n.Name, n.State, n.Healthy, n.Health, c.state, c.says)
				case !unwell && !n.Healthy:
					t.Errorf("%s is unwell too: %s", n.Name, n.Health)
				}
			}
			for _, service := range st.Services {
				if service.Healthy != (c.service == "") || !strings.Contains(service.Health, c.service) {
					t.Errorf("service %d is healthy %v: %q; want %q", service.ID, service.Healthy, service.Health, c.service)
				}
			}
		})
	}
}
