package chaos

import (
	"slices"
	"testing"
)

// after applies actions to the lab.
func after(actions ...Action) Model {
	m := lab()
	for _, a := range actions {
		m = m.Apply(a)
	}
	return m
}

func TestWhoMayAnswerNewConnections(t *testing.T) {
	be1 := func(k Kind) Action { return Action{Kind: k, Backend: "be1", Service: 1} }
	weight := func(n int) Action { return Action{Kind: Reweight, Backend: "be1", Service: 1, Share: n} }
	fault := func(f Fault) Action { return Action{Kind: Impair, Backend: "be1", Fault: f} }
	agent := func(k Kind) Action { return Action{Kind: k} }
	all, without := []string{"be1", "be2", "be3", "be4"}, []string{"be2", "be3", "be4"}
	cases := map[string]struct {
		actions   []Action
		may, must []string
	}{
		"all of a lab that was just brought up":            {nil, all, all},
		"not one that drains":                              {[]Action{be1(Drain)}, without, without},
		"not one whose draining has ended":                 {[]Action{be1(DrainDeadline)}, without, without},
		"not one in maintenance":                           {[]Action{be1(Maintain)}, without, without},
		"not one of weight 0":                              {[]Action{weight(0)}, without, without},
		"one of a small weight":                            {[]Action{weight(1)}, all, all},
		"one that is active again":                         {[]Action{be1(Drain), be1(Activate)}, all, all},
		"not one of weight 0 that is active again":         {[]Action{weight(0), be1(Maintain), be1(Activate)}, without, without},
		"one that had left, with the usual weight":         {[]Action{weight(0), be1(DrainDeadline), be1(Activate)}, all, all},
		"not one whose server was killed":                  {[]Action{be1(KillWeb)}, without, without},
		"one whose server was started again":               {[]Action{be1(KillWeb), be1(StartWeb)}, all, all},
		"not one whose port is down":                       {[]Action{fault(PortDown)}, without, without},
		"perhaps one that loses frames":                    {[]Action{fault(Loss)}, all, without},
		"one with a small MTU":                             {[]Action{fault(SmallMTU)}, all, all},
		"still a dead one, without an agent to notice":     {[]Action{agent(KillAgent), be1(KillWeb)}, all, without},
		"not a drained one, without an agent":              {[]Action{be1(Drain), agent(KillAgent)}, without, without},
		"not a drained one, after the agent's restart":     {[]Action{be1(Drain), agent(RestartAgent)}, without, without},
		"not one that is well again, without an agent":     {[]Action{be1(KillWeb), agent(StopAgent), be1(StartWeb)}, without, without},
		"not a dead one, once the agent is back":           {[]Action{agent(StopAgent), be1(KillWeb), agent(StartAgent)}, without, without},
		"a drained one, once the topology is set anew":     {[]Action{be1(Drain), agent(Restore)}, all, all},
		"a killed one, once labctl up has made it again":   {[]Action{be1(KillNode), agent(Restore)}, all, all},
		"one that is added":                                {[]Action{{Kind: AddBackend, Backend: "be5"}}, append(slices.Clone(all), "be5"), append(slices.Clone(all), "be5")},
		"not one that is removed":                          {[]Action{be1(RemoveBackend)}, without, without},
		"not one that a killed and repeated up is to take": {[]Action{{Kind: CutUp, Change: RemoveBackend, Backend: "be1"}}, without, without},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := after(c.actions...)
			s := m.Service(1)
			if !slices.Equal(s.Table, c.may) {
				t.Errorf("may answer: %v, want %v", s.Table, c.may)
			}
			if must := m.Must(s); !slices.Equal(must, c.must) {
				t.Errorf("must answer: %v, want %v", must, c.must)
			}
		})
	}
}

func TestDeadBackendsAreUsedWhereNoneIsWell(t *testing.T) {
	kill := func(b string) Action { return Action{Kind: KillWeb, Backend: b} }
	m := after(kill("be1"), kill("be2"), kill("be3"), kill("be4"))
	if s := m.Service(2); len(s.Table) != 4 || len(m.Must(s)) != 0 {
		t.Errorf("may %v, must %v; want all and none: the checks are not heeded", s.Table, m.Must(s))
	}
}

func TestModesAreSwitchedForOneServiceOrAll(t *testing.T) {
	m := after(Action{Kind: SwitchMode, Service: 1, Mode: "snat"})
	if m.Service(1).Mode != "snat" || m.Service(3).Mode != "dsr" {
		t.Errorf("modes %s and %s, want snat and dsr", m.Service(1).Mode, m.Service(3).Mode)
	}
	m = m.Apply(Action{Kind: SwitchMode, Mode: "dsr"})
	if m.Service(1).Mode != "dsr" || m.Service(2).Mode != "dsr" {
		t.Errorf("modes %s and %s, want dsr for both", m.Service(1).Mode, m.Service(2).Mode)
	}
}

func TestAServiceComesAndGoes(t *testing.T) {
	m := after(Action{Kind: AddService, Service: 3})
	if s := m.Service(3); !s.InLab || len(s.Table) != 4 {
		t.Errorf("an added service: %+v", s)
	}
	m = m.Apply(Action{Kind: RemoveService, Service: 3})
	if s := m.Service(3); s.InLab || len(s.Table) != 0 {
		t.Errorf("a removed service: %+v", s)
	}
}
