package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l4lab/lab"
	"l4lab/lab/plan"
	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

// site is a world with a store of labs.
type site struct {
	*world
	store   state.Store
	options lab.Options

	mu     sync.Mutex
	events []lab.Event
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{world: newWorld(), store: state.NewStore(filepath.Join(dir, "labs"))}
	s.options = lab.Options{
		Store: s.store, Drivers: []provider.Driver{s.driver("fake"), s.driver("other")}, Programs: lab.Programs{topology.Linux: filepath.Join(dir, "lbagent")},
		Listen: func(e lab.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
		},
	}
	if err := os.WriteFile(s.options.Programs[topology.Linux], []byte("the agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) lab() *lab.Lab { return lab.Open("l4lb", s.options) }

// up brings the demo up.
func (s *site) up(t *testing.T) {
	t.Helper()
	if _, err := s.lab().Up(t.Context(), topology.Default(), lab.UpOptions{}); err != nil {
		t.Fatal(err)
	}
}

// remembered is the state file in a comparable form, "" when there is none.
func (s *site) remembered(t *testing.T) string {
	t.Helper()
	return s.stateText(t, func(st *state.State) { st.Changed = time.Time{} })
}

// essence is remembered without the list of what is owned, which may name things
// that this lab never had.
func (s *site) essence(t *testing.T) string {
	t.Helper()
	return s.stateText(t, func(st *state.State) { st.Changed, st.Owned = time.Time{}, nil })
}

func (s *site) stateText(t *testing.T, strip func(st *state.State)) string {
	t.Helper()
	st, err := s.store.Load("l4lb")
	if errors.Is(err, state.ErrNone) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	strip(&st)
	data, err := json.MarshalIndent(st, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (s *site) phase(t *testing.T) state.Phase {
	t.Helper()
	st, err := s.store.Load("l4lb")
	if err != nil {
		t.Fatal(err)
	}
	return st.Phase
}

// emptyText is the world in which nothing is.
var emptyText = newWorld().text()

// nothingLeft fails when anything of a lab is there.
func (s *site) nothingLeft(t *testing.T) {
	t.Helper()
	if text := s.text(); text != emptyText {
		t.Errorf("left in the world: %s", text)
	}
	labs, err := s.store.Labs()
	if err != nil || len(labs) > 0 {
		t.Errorf("folders are left: %v, %v", labs, err)
	}
}

// same fails when two texts differ, and shows the lines that do.
func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	var b strings.Builder
	a, z := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, line := range a {
		if !slices.Contains(z, line) {
			b.WriteString("\n-" + line)
		}
	}
	for _, line := range z {
		if !slices.Contains(a, line) {
			b.WriteString("\n+" + line)
		}
	}
	t.Errorf("%s is not what it was:%s", what, &b)
}

// eventsOf returns the steps that went through a phase, sorted.
func (s *site) eventsOf(phase string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, e := range s.events {
		if e.Phase == phase && e.Step != "" {
			ids = append(ids, e.Step)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestUpMakesTheDemo(t *testing.T) {
	s := newSite(t)
	s.up(t)
	if n := len(s.Machines); n != 6 || s.Switches["l4lb"] != 1500 {
		t.Errorf("%d machines and switches %v", n, s.Switches)
	}
	vip := []netip.Addr{netip.MustParseAddr("40.1.1.1")}
	for name, hook := range map[string]string{"be1": "xdp", "be2": "xdp", "be3": "tc", "be4": "tc"} {
		m := s.Machines["l4lb/"+name]
		if !slices.Equal(m.VIPs, vip) || !strings.HasPrefix(m.Decap, hook+" ") || !strings.HasPrefix(m.Page, name+" ") {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if routes := s.Machines["l4lb/client"].Routes; len(routes) != 1 || routes[0].String() != "40.1.1.1 via 20.1.1.1 mtu 1480" {
		t.Errorf("the client's routes are %v", routes)
	}
	want := plan.ServiceOf(topology.Default(), topology.Default().Services[0])
	if got := s.Machines["l4lb/lb"].Services[1]; !reflect.DeepEqual(got, want) {
		t.Errorf("the service is %+v, want %+v", got, want)
	}
	st, err := s.store.Load("l4lb")
	if err != nil {
		t.Fatal(err)
	}
	if st.Phase != state.Up || st.Provider != "fake" || len(st.Owned) != 22 || len(topology.Diff(st.Topology, topology.Default())) > 0 {
		t.Errorf("remembered: %+v", st)
	}
}

// The service is the last thing to be told: until then no packet is sent to a
// backend that would drop it.
func TestUpTellsTheServiceLast(t *testing.T) {
	s := newSite(t)
	s.up(t)
	calls := s.called()
	before := []string{"EnsureAgent lb"}
	for _, name := range []string{"be1", "be2", "be3", "be4"} {
		before = append(before, "EnsureVIPs "+name, "EnsureDecap "+name, "EnsurePage "+name)
	}
	at := slices.Index(calls, "PutService 1")
	for _, call := range before {
		if i := slices.Index(calls, call); i < 0 || i > at {
			t.Errorf("%s is call %d, PutService 1 call %d", call, i, at)
		}
	}
}

func TestUpTwiceDoesNothing(t *testing.T) {
	s := newSite(t)
	s.up(t)
	file := filepath.Join(s.store.Dir("l4lb"), "state.json")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s.forget()
	steps, err := s.lab().Up(t.Context(), topology.Default(), lab.UpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if changes := plan.Changes(steps); len(changes) > 0 || len(s.called()) > 0 {
		t.Errorf("planned %v, did %v", changes, s.called())
	}
	after, err := os.ReadFile(file)
	if err != nil || string(after) != string(before) {
		t.Errorf("the state was written again (%v)", err)
	}
}

// callOf is what a planned step asks of the world.
func callOf(s plan.Step) string {
	verbs := map[plan.Kind]string{
		plan.Switch: "EnsureSwitch", plan.Node: "EnsureNode " + s.Machine, plan.VIPs: "EnsureVIPs " + s.Machine,
		plan.Decap: "EnsureDecap " + s.Machine, plan.Page: "EnsurePage " + s.Machine, plan.Routes: "EnsureRoutes " + s.Machine,
		plan.Agent: "EnsureAgent " + s.Machine, plan.Service: "PutService " + strings.TrimPrefix(s.ID, "service/"),
	}
	if s.Action == plan.Remove {
		verbs[plan.Node] = "RemoveNode " + s.Machine
		verbs[plan.Service] = "DeleteService " + strings.TrimPrefix(s.ID, "service/")
		for _, kind := range []plan.Kind{plan.Agent, plan.Decap, plan.Page} {
			verbs[kind] = "Remove " + string(kind) + " " + s.Machine
		}
	}
	return verbs[s.Kind]
}

func TestDryRunIsWhatUpDoes(t *testing.T) {
	check := func(t *testing.T, s *site, top topology.Topology) {
		before, remembered := s.text(), s.remembered(t)
		s.forget()
		planned, err := s.lab().Plan(t.Context(), top, lab.UpOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(s.called()) > 0 || s.text() != before || s.remembered(t) != remembered {
			t.Fatalf("the dry run did %v", s.called())
		}
		if _, err := os.Stat(s.store.Root()); remembered == "" && !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the dry run made a folder: %v", err)
		}
		s.events = nil
		done, err := s.lab().Up(t.Context(), top, lab.UpOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(planned, done) {
			t.Errorf("planned %+v\ndone %+v", planned, done)
		}
		var ids, calls []string
		for _, step := range plan.Changes(planned) {
			ids, calls = append(ids, step.ID), append(calls, callOf(step))
		}
		slices.Sort(ids)
		slices.Sort(calls)
		did := s.called()
		slices.Sort(did)
		if !slices.Equal(did, calls) {
			t.Errorf("did\n%v\nplanned\n%v", did, calls)
		}
		if got := s.eventsOf("done"); !slices.Equal(got, ids) {
			t.Errorf("told of %v, planned %v", got, ids)
		}
	}
	t.Run("of a fresh lab", func(t *testing.T) { check(t, newSite(t), topology.Default()) })
	for _, c := range converges {
		t.Run("when "+c.name, func(t *testing.T) {
			s, top := c.prepare(t)
			check(t, s, top)
		})
	}
}

func TestUpTellsWhatHappens(t *testing.T) {
	s := newSite(t)
	s.up(t)
	started, done := s.eventsOf("started"), s.eventsOf("done")
	if len(done) != 22 || !slices.Equal(started, done) {
		t.Errorf("started %v\ndone %v", started, done)
	}
	last := s.events[len(s.events)-1]
	if last.Phase != "up" || last.Lab != "l4lb" || last.Step != "" || last.Seconds <= 0 || last.Error != "" {
		t.Errorf("the last event is %+v", last)
	}
	for _, e := range s.events[:len(s.events)-1] {
		if e.Lab != "l4lb" || e.Action != plan.Create || e.Reason == "" || e.Time.IsZero() {
			t.Errorf("event %+v lacks something", e)
		}
	}
}

func TestUpRefuses(t *testing.T) {
	boom := errors.New("netlink is out of order")
	cases := []struct {
		name    string
		arrange func(t *testing.T, s *site, top *topology.Topology, o *lab.UpOptions)
		is      func(err error) bool
		says    []string
	}{
		{
			name: "a machine that lacks something fatal",
			arrange: func(_ *testing.T, s *site, _ *topology.Topology, _ *lab.UpOptions) {
				s.requirements = []provider.Requirement{{Name: "root", Fatal: true, Found: "user 1000", Remedy: "run it with sudo"}}
			},
			is:   func(err error) bool { var e *provider.MissingError; return errors.As(err, &e) },
			says: []string{"provider fake cannot run here", "root: user 1000; run it with sudo"},
		},
		{
			name: "a topology with faults, all at once",
			arrange: func(_ *testing.T, _ *site, top *topology.Topology, _ *lab.UpOptions) {
				top.Services[0].Port, top.Services[0].Backends = 0, []string{"nobody"}
			},
			is:   func(err error) bool { var e topology.Faults; return errors.As(err, &e) && len(e) >= 2 },
			says: []string{"port", "nobody"},
		},
		{
			name: "an mtu that the provider's links do not take",
			arrange: func(_ *testing.T, _ *site, top *topology.Topology, _ *lab.UpOptions) {
				top.Switch.MTU = 4000
			},
			is:   func(err error) bool { var e topology.Faults; return errors.As(err, &e) },
			says: []string{"switch.mtu", "4000", "3506"},
		},
		{
			name:    "a provider that nobody knows",
			arrange: func(_ *testing.T, _ *site, _ *topology.Topology, o *lab.UpOptions) { o.Provider = "cloud" },
			is:      func(error) bool { return true },
			says:    []string{`"cloud"`, "fake, other"},
		},
		{
			name: "an agent's program that is not there",
			arrange: func(t *testing.T, s *site, _ *topology.Topology, _ *lab.UpOptions) {
				if err := os.Remove(s.options.Programs[topology.Linux]); err != nil {
					t.Fatal(err)
				}
			},
			is:   func(err error) bool { return errors.Is(err, os.ErrNotExist) },
			says: []string{"make build"},
		},
		{
			name: "a thing of the lab's name that is not the lab's",
			arrange: func(_ *testing.T, s *site, _ *topology.Topology, _ *lab.UpOptions) {
				s.foreign["l4lb/be2"] = true
			},
			is:   func(err error) bool { return errors.Is(err, provider.ErrForeign) },
			says: []string{"l4lb/be2"},
		},
		{
			name:    "a world that cannot be looked at",
			arrange: func(_ *testing.T, s *site, _ *topology.Topology, _ *lab.UpOptions) { s.unseen = boom },
			is:      func(err error) bool { return errors.Is(err, boom) },
			says:    []string{"look at lab l4lb"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, top, o := newSite(t), topology.Default(), lab.UpOptions{}
			c.arrange(t, s, &top, &o)
			for verb, do := range map[string]func(*lab.Lab, context.Context, topology.Topology, lab.UpOptions) ([]plan.Step, error){
				"Up": (*lab.Lab).Up, "Plan": (*lab.Lab).Plan,
			} {
				_, err := do(s.lab(), t.Context(), top, o)
				if err == nil || !c.is(err) {
					t.Fatalf("%s: error %v of type %T", verb, err, err)
				}
				for _, part := range c.says {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%s: error %q does not say %q", verb, err, part)
					}
				}
			}
			if calls := s.called(); len(calls) > 0 {
				t.Errorf("did %v", calls)
			}
			s.nothingLeft(t)
		})
	}
}

func TestUpRefusesToMoveALabToAnotherProvider(t *testing.T) {
	s := newSite(t)
	s.up(t)
	world, remembered := s.text(), s.remembered(t)
	_, err := s.lab().Up(t.Context(), topology.Default(), lab.UpOptions{Provider: "other"})
	if err == nil || !strings.Contains(err.Error(), "fake") || !strings.Contains(err.Error(), "labctl down --name l4lb") {
		t.Errorf("error %v, want one that says what to do", err)
	}
	same(t, "the world", s.text(), world)
	same(t, "the state", s.remembered(t), remembered)
}

func TestUpKeepsALabsProvider(t *testing.T) {
	s := newSite(t)
	if _, err := s.lab().Up(t.Context(), topology.Default(), lab.UpOptions{Provider: "other"}); err != nil {
		t.Fatal(err)
	}
	s.forget()
	if _, err := s.lab().Up(t.Context(), topology.Default(), lab.UpOptions{}); err != nil || len(s.called()) > 0 {
		t.Errorf("the second up did %v, error %v", s.called(), err)
	}
}

func TestLockedLab(t *testing.T) {
	verbs := map[string]func(ctx context.Context, l *lab.Lab) error{
		"up": func(ctx context.Context, l *lab.Lab) error {
			_, err := l.Up(ctx, topology.Default(), lab.UpOptions{})
			return err
		},
		"down": func(ctx context.Context, l *lab.Lab) error { _, err := l.Down(ctx); return err },
		"mode": func(ctx context.Context, l *lab.Lab) error { return l.Mode(ctx, 0, topology.SNAT) },
	}
	for name, verb := range verbs {
		t.Run(name+" waits for nobody", func(t *testing.T) {
			s := newSite(t)
			s.up(t)
			world, remembered := s.text(), s.remembered(t)
			lock, err := s.store.Lock(t.Context(), "l4lb")
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Release()
			s.forget()
			err = verb(t.Context(), s.lab())
			var locked *state.LockedError
			if !errors.As(err, &locked) || locked.PID != os.Getpid() {
				t.Errorf("error %v, want a *LockedError with this process", err)
			}
			if len(s.called()) > 0 {
				t.Errorf("did %v", s.called())
			}
			same(t, "the world", s.text(), world)
			same(t, "the state", s.remembered(t), remembered)
		})
	}
}

func TestLabsLiveSideBySide(t *testing.T) {
	s := newSite(t)
	names := []string{"one", "two", "three"}
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			top := topology.Default()
			top.Name = name
			if _, err := lab.Open(name, s.options).Up(t.Context(), top, lab.UpOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(s.Machines); n != 18 {
		t.Fatalf("%d machines, want 18", n)
	}
	if got, err := lab.All(s.options); err != nil || !slices.Equal(got, []string{"one", "three", "two"}) {
		t.Errorf("All() = %v, %v", got, err)
	}
	if _, err := lab.Open("two", s.options).Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	for key := range s.Machines {
		if strings.HasPrefix(key, "two/") {
			t.Errorf("%s is left", key)
		}
	}
	if n := len(s.Machines); n != 12 {
		t.Errorf("%d machines of the others are left, want 12", n)
	}
}
