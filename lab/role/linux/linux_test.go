//go:build linux

package linux

import (
	"context"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/role"
	"l4lab/topology"
)

// startLimit is short: the stand-in's daemons answer at once or never.
const startLimit = 2 * time.Second

var (
	address  = netip.MustParseAddr("20.1.1.30")
	balancer = netip.MustParseAddr("20.1.1.1")
	vip1     = netip.MustParseAddr("40.1.1.1")
	vip2     = netip.MustParseAddr("40.1.1.2")

	agentWanted = role.Agent{Address: address, Program: "/bin/true", Hash: strings.Repeat("a", 64)}
	decapWanted = role.Decap{Hook: role.TC, Address: address, Balancer: balancer, Program: "/bin/true", Hash: strings.Repeat("a", 64)}
	pageWanted  = role.Page{Name: "be3", OS: topology.Linux, Address: address, TCP: []uint16{80, 8080}, UDP: []uint16{53}, Program: "/bin/true", Hash: strings.Repeat("a", 64)}
	routeWanted = role.Route{Destination: vip1, Via: balancer, MTU: 1480}
)

// verbs are all of the verbs, with a change of what each wants.
var verbs = []struct {
	name          string
	first, second func(context.Context, *System) error
	unit          string
	// has is what Observe finds of it afterwards.
	has func(role.Facts) any
	// one and two are what has returns after first and second.
	one, two any
}{
	{
		"EnsureVIPs",
		func(ctx context.Context, s *System) error { return s.EnsureVIPs(ctx, []netip.Addr{vip1, vip2}) },
		func(ctx context.Context, s *System) error { return s.EnsureVIPs(ctx, []netip.Addr{vip2}) },
		vipsUnit, func(f role.Facts) any { return f.VIPs }, []netip.Addr{vip1, vip2}, []netip.Addr{vip2},
	},
	{
		"EnsureRoutes",
		func(ctx context.Context, s *System) error { return s.EnsureRoutes(ctx, []role.Route{routeWanted}) },
		func(ctx context.Context, s *System) error {
			return s.EnsureRoutes(ctx, []role.Route{{Destination: vip2, Via: balancer, MTU: 1400}})
		},
		routesUnit, func(f role.Facts) any { return f.Routes },
		[]role.Route{routeWanted}, []role.Route{{Destination: vip2, Via: balancer, MTU: 1400}},
	},
	{
		"EnsureAgent",
		func(ctx context.Context, s *System) error { return s.EnsureAgent(ctx, agentWanted) },
		func(ctx context.Context, s *System) error {
			a := agentWanted
			a.Hash = strings.Repeat("b", 64)
			return s.EnsureAgent(ctx, a)
		},
		agentUnit, func(f role.Facts) any { return f.Agent },
		role.Present{Spec: agentWanted.Spec(), PID: 77}, role.Present{Spec: strings.ReplaceAll(agentWanted.Spec(), "aaaa", "bbbb"), PID: 77},
	},
	{
		"EnsureDecap",
		func(ctx context.Context, s *System) error { return s.EnsureDecap(ctx, decapWanted) },
		func(ctx context.Context, s *System) error {
			d := decapWanted
			d.Hook = role.XDP
			return s.EnsureDecap(ctx, d)
		},
		decapUnit, func(f role.Facts) any { return f.Decap },
		role.Present{Spec: decapWanted.Spec()}, role.Present{Spec: strings.Replace(decapWanted.Spec(), "tc", "xdp", 1)},
	},
	{
		"EnsurePage",
		func(ctx context.Context, s *System) error { return s.EnsurePage(ctx, pageWanted) },
		func(ctx context.Context, s *System) error {
			p := pageWanted
			p.TCP = []uint16{81}
			return s.EnsurePage(ctx, p)
		},
		webUnit, func(f role.Facts) any { return f.Page },
		role.Present{Spec: pageWanted.Spec(), PID: 77}, role.Present{Spec: strings.Replace(pageWanted.Spec(), "80,8080", "81", 1), PID: 77},
	},
}

func TestVerbsDoWhatIsAskedOnceAndChangeOnlyWhatDiffers(t *testing.T) {
	for _, v := range verbs {
		t.Run(v.name, func(t *testing.T) {
			m, s := newMachine(t)
			facts := func() any {
				t.Helper()
				f, err := s.Observe(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return v.has(f)
			}
			if err := v.first(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if got := m.changes(); !slices.Contains(got, "systemctl restart "+v.unit) || !slices.Contains(got, "systemctl enable "+v.unit) || !slices.Contains(got, "systemctl daemon-reload") {
				t.Errorf("at first it did %q", got)
			}
			if got := facts(); !reflect.DeepEqual(got, v.one) {
				t.Errorf("Observe finds %+v, want %+v", got, v.one)
			}
			m.changes()
			if err := v.first(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if got := m.changes(); len(got) > 0 {
				t.Errorf("asked for the same again, it did %q", got)
			}
			if err := v.second(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if got := facts(); !reflect.DeepEqual(got, v.two) {
				t.Errorf("after a change Observe finds %+v, want %+v", got, v.two)
			}
			if !m.has("enabled." + v.unit) {
				t.Error("the unit is not enabled: a restarted machine would lack it")
			}
		})
	}
}

func TestLogsAreTheJournalsOfTheUnitsThatAreThere(t *testing.T) {
	m, s := newMachine(t)
	if logs, err := s.Logs(t.Context()); err != nil || len(logs) != 0 {
		t.Errorf("a bare machine has %v, %v", logs, err)
	}
	if err := s.EnsurePage(t.Context(), pageWanted); err != nil {
		t.Fatal(err)
	}
	logs, err := s.Logs(t.Context())
	if err != nil || len(logs) != 1 || logs["web"] == nil {
		t.Fatalf("logs %v, %v; want the page's", logs, err)
	}
	text, err := io.ReadAll(logs["web"])
	if err != nil || string(text) != "bind: address already in use\n" {
		t.Errorf("the page wrote %q, %v", text, err)
	}
	want := strings.Fields("journalctl --unit l4lab-web.service --lines 5000 --no-pager --quiet --output cat")
	if !slices.ContainsFunc(m.argvs, func(argv []string) bool { return slices.Equal(argv, want) }) {
		t.Errorf("it ran %q, want %q among them", m.argvs, want)
	}
}

func TestUnitsSayWhatARestartedMachineRuns(t *testing.T) {
	m, s := newMachine(t)
	for _, v := range verbs {
		if err := v.first(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for unit, want := range map[string][]string{
		vipsUnit:   {"ip address replace 40.1.1.1/32 dev lo", "arp_ignore", "arp_announce", "Type=oneshot"},
		routesUnit: {"ip route replace 40.1.1.1/32 via 20.1.1.1 proto 76 mtu 1480"},
		agentUnit: {"/usr/local/bin/lbagent serve --device enp0s2 --address 20.1.1.30 --socket /var/lib/l4lab/agent.sock --pin-dir /sys/fs/bpf/l4lab/lb --state /var/lib/l4lab/services.json",
			"Restart=always", "RequiresMountsFor=/sys/fs/bpf", "Spec=" + agentWanted.Spec()},
		decapUnit: {"/usr/local/bin/lbagent decap attach --interface enp0s2 --address 20.1.1.30 --balancer 20.1.1.1 --hook tc --pin-dir /sys/fs/bpf/l4lab/decap"},
		webUnit:   {"/usr/local/bin/lbagent web --name be3 --address 20.1.1.30 --os linux --tcp :80,:8080 --udp :53", "At=tcp 20.1.1.30:80"},
	} {
		for _, w := range append(want, "WantedBy=multi-user.target") {
			if !strings.Contains(m.unit(unit), w) {
				t.Errorf("%s lacks %q:\n%s", unit, w, m.unit(unit))
			}
		}
	}
	if len(m.pushed) != 3 || m.pushed[0] != (guest.File{Path: Program, Source: "/bin/true", Hash: agentWanted.Hash, Executable: true}) {
		t.Errorf("pushed %+v", m.pushed)
	}
}

func TestObserveSaysWhatIsWrong(t *testing.T) {
	subject := map[string]func(role.Facts) role.Present{
		"agent": func(f role.Facts) role.Present { return f.Agent },
		"decap": func(f role.Facts) role.Present { return f.Decap },
		"page":  func(f role.Facts) role.Present { return f.Page },
	}
	for _, c := range []struct {
		name, subject, fault string
		damage               func(*machine)
		made                 bool // the Spec is still said
		repair               func(context.Context, *System) error
	}{
		{"an agent that ended", "agent", "exited", func(m *machine) { m.unset("active." + agentUnit) }, false, verbs[2].first},
		{"an agent that ends again and again", "agent", "exited", func(m *machine) { m.set("dies."+agentUnit, "") }, false, nil},
		{"an agent that does not answer", "agent", "does not answer", func(m *machine) { m.mute[agentUnit] = true }, true, nil},
		{"an agent whose program was taken off", "agent", "its program is detached", func(m *machine) { m.unset("xdp") }, true, verbs[2].first},
		{"an agent that the next boot forgets", "agent", "is not started at boot", func(m *machine) { m.unset("enabled." + agentUnit) }, true, verbs[2].first},
		{"an interface that has another name now", "agent", "it works on enp0s2", func(m *machine) { m.set("device", "eth0") }, true, verbs[2].first},
		{"decapsulation without pins", "decap", "its pins are gone", func(m *machine) { m.set("decap", "{}") }, false, verbs[3].first},
		{"decapsulation that was taken off", "decap", "detached", func(m *machine) { m.set("decap", `{"hook":"tc"}`) }, false, verbs[3].first},
		{"a program that is gone", "decap", "its program does not answer", func(m *machine) { m.set("decap", "sh: lbagent: not found") }, false, verbs[3].first},
		{"a page that ended", "page", "exited", func(m *machine) { m.unset("active." + webUnit) }, false, verbs[4].first},
		{"a page that does not answer", "page", "does not answer", func(m *machine) { m.mute[webUnit] = true }, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, s := newMachine(t)
			for _, v := range verbs[2:] {
				if err := v.first(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			c.damage(m)
			f, err := s.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := subject[c.subject](f)
			if !strings.HasPrefix(got.Fault, c.fault) || (got.Spec != "") != c.made {
				t.Errorf("Observe finds %+v, want the fault %q", got, c.fault)
			}
			if c.repair == nil {
				return
			}
			if err := c.repair(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if f, err = s.Observe(t.Context()); err != nil || subject[c.subject](f).Fault != "" {
				t.Errorf("the verb did not mend it: %+v, %v", subject[c.subject](f), err)
			}
		})
	}
}

func TestADaemonThatDoesNotComeUpIsAnErrorWithItsLastWords(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(*machine)
		within string
	}{
		{"one that cannot be started", func(m *machine) { m.set("fails."+webUnit, "") }, "Job for"},
		{"one that ends at once", func(m *machine) { m.set("dies."+webUnit, "") }, "ended at once"},
		{"one that never answers", func(m *machine) { m.mute[webUnit] = true }, "tcp 20.1.1.30:80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, s := newMachine(t)
			c.damage(m)
			err := s.EnsurePage(t.Context(), pageWanted)
			if err == nil {
				t.Fatal("EnsurePage went well")
			}
			for _, want := range []string{"be3", webUnit, c.within, "address already in use"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
		})
	}
}

func TestRemoveTakesBackWhatIsThereAndNothingElse(t *testing.T) {
	for subject, unit := range map[role.Subject]string{role.SubjectAgent: agentUnit, role.SubjectDecap: decapUnit, role.SubjectPage: webUnit} {
		t.Run(string(subject), func(t *testing.T) {
			m, s := newMachine(t)
			if err := s.Remove(t.Context(), subject); err != nil || len(m.changes()) > 0 {
				t.Errorf("removing nothing = %v", err)
			}
			for _, v := range verbs[2:] {
				if err := v.first(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			m.changes()
			if err := s.Remove(t.Context(), subject); err != nil {
				t.Fatal(err)
			}
			if m.unit(unit) != "" || m.has("active."+unit) || m.has("enabled."+unit) {
				t.Error("it is still there")
			}
			if did := m.changes(); subject == role.SubjectDecap != slices.Contains(did, "lbagent decap detach --pin-dir "+m.root+decapPins) {
				t.Errorf("it did %q", did)
			}
			left := 0
			for _, other := range []string{agentUnit, decapUnit, webUnit} {
				if m.has("active." + other) {
					left++
				}
			}
			if left != 2 {
				t.Errorf("%d of the other two are left", left)
			}
		})
	}
	_, s := newMachine(t)
	if err := s.Remove(t.Context(), "roof"); err == nil {
		t.Error("removing something unknown went well")
	}
}

func TestNoInterfaceWithTheAddressIsAnErrorBeforeAnythingChanges(t *testing.T) {
	m, _ := newMachine(t)
	s, err := New(Options{Guest: m, Machine: "be3", Address: netip.MustParseAddr("20.1.1.31")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.EnsureAgent(t.Context(), agentWanted); err == nil || !strings.Contains(err.Error(), "enp0s2") {
		t.Errorf("EnsureAgent = %v, want an error that lists the interfaces", err)
	}
	if len(m.pushed) > 0 || len(m.changes()) > 0 {
		t.Error("something was changed")
	}
}

func TestExecLinesAreQuotedForSystemd(t *testing.T) {
	got := execLine([]string{"/bin/sh", "-c", `echo "100%" $HOME \ ;`, "plain", ""})
	if want := `/bin/sh -c "echo \"100%%\" $$HOME \\ ;" plain ""`; got != want {
		t.Errorf("execLine = %s, want %s", got, want)
	}
}

func TestNginxServesTCPAlone(t *testing.T) {
	p := pageWanted
	if _, _, err := (Nginx{}).Serve(p); err == nil {
		t.Error("a page with UDP went well")
	}
	p.UDP = nil
	argv, files, err := Nginx{}.Serve(p)
	if err != nil || argv[0] != "nginx" {
		t.Fatal(argv, err)
	}
	for _, want := range []string{"listen 80;", "listen 8080;", `X-Backend "be3"`, "/whoami"} {
		if !strings.Contains(files[nginxConfig], want) {
			t.Errorf("nginx.conf lacks %q", want)
		}
	}
}
