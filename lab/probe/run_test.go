package probe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/topology"
)

// playLab is a Lab made of sims: connections are answered by an HTTP handler
// over pipes, and each is played for the captures.
type playLab struct {
	t *testing.T

	mu      sync.Mutex
	sim     *sim
	played  *sync.Cond // on mu: frames were added
	mode    string
	changes []string // modes that were set, and what was done to the client
	open    int      // captures
	// refuse makes captures at a place fail, onDial sees every connection, held are
	// the ports that the client's system does not give.
	refuse capture.Place
	onDial func()
	held   func(local netip.AddrPort) bool
}

func newPlayLab(t *testing.T, mode topology.Mode) *playLab {
	l := &playLab{t: t, sim: newSim(t, mode, topology.TCP), mode: string(mode)}
	l.played = sync.NewCond(&l.mu)
	return l
}

func (l *playLab) Topology() topology.Topology { return fiveMachines() }

func (l *playLab) MAC(machine string) (net.HardwareAddr, error) { return l.sim.e.MACs[machine], nil }

func (l *playLab) Agent(context.Context) (Agent, error) { return l, nil }

func (l *playLab) Services(context.Context) ([]api.Service, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []api.Service{{ID: 1, Mode: l.mode}}, nil
}

func (l *playLab) Connections(context.Context, uint32) ([]api.Connection, error) {
	return nil, nil
}

func (l *playLab) SetMode(ctx context.Context, u api.ModeUpdate) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mode = u.Mode
	l.changes = append(l.changes, "mode "+u.Mode)
	l.sim = newSim(l.t, topology.Mode(u.Mode), topology.TCP)
	return nil
}

func (l *playLab) Counters(context.Context) (api.Counters, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sim.counters
	s.ID = 1
	for name, total := range l.sim.perBackend {
		s.Backends = append(s.Backends, api.BackendCounters{Address: l.sim.e.backendAddress(name), Traffic: total})
	}
	return api.Counters{Services: []api.ServiceCounters{s}, Drops: map[string]uint64{"fragment": 1}}, nil
}

func (l *playLab) DecapStatus(_ context.Context, node string) (api.DecapStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sim.decap[node], nil
}

func (l *playLab) AddClientAddress(_ context.Context, a netip.Addr) (func(context.Context) error, error) {
	return l.change("address " + a.String()), nil
}

func (l *playLab) AddClientRoute(_ context.Context, a netip.Addr) (func(context.Context) error, error) {
	return l.change("route " + a.String()), nil
}

func (l *playLab) change(what string) func(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = append(l.changes, what)
	return func(ctx context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.changes = append(l.changes, "no "+what)
		return ctx.Err()
	}
}

func (l *playLab) Capture(_ context.Context, place capture.Place) (Session, error) {
	if place == l.refuse {
		return nil, errors.New("no such interface")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
	return &playSession{l, place}, nil
}

type playSession struct {
	lab   *playLab
	place capture.Place
}

func (s *playSession) Frames() []capture.Frame {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	return slices.Clone(s.lab.sim.frames[s.place])
}

func (s *playSession) Wait(ctx context.Context, condition func([]capture.Frame) bool) error {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	wake := context.AfterFunc(ctx, func() {
		s.lab.mu.Lock()
		defer s.lab.mu.Unlock()
		s.lab.played.Broadcast()
	})
	defer wake()
	for !condition(s.lab.sim.frames[s.place]) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.lab.played.Wait()
	}
	return nil
}

func (s *playSession) Stop() (capture.Result, error) {
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	s.lab.open--
	return capture.Result{Frames: uint64(len(s.lab.sim.frames[s.place]))}, nil
}

func (l *playLab) DialClient(_ context.Context, _ string, local, remote netip.AddrPort) (net.Conn, error) {
	if l.onDial != nil {
		l.onDial()
	}
	if l.held != nil && l.held(local) {
		return nil, fmt.Errorf("client: %w", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)})
	}
	if remote != l.Topology().Services[0].Frontend() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sim.foreign(local)
		l.played.Broadcast()
		return nil, errors.New("nobody there")
	}
	client, server := net.Pipe()
	listener := &oneConn{conns: make(chan net.Conn, 1)}
	listener.conns <- server
	go func() {
		// It ends with the error that the listener returns for its second connection.
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.serve(w, r, local) }))
	}()
	return client, nil
}

func (l *playLab) serve(w http.ResponseWriter, r *http.Request, client netip.AddrPort) {
	l.mu.Lock()
	name := l.sim.backendOf(client)
	switch r.URL.Path {
	case "/whoami":
		l.sim.exchange(client)
	default:
		l.sim.conversation(l.sim.script(client, r.Method == http.MethodPost, 5000))
	}
	l.played.Broadcast()
	l.mu.Unlock()
	node := l.Topology().Nodes[name]
	switch r.URL.Path {
	case "/whoami":
		l.write(w, Answer{name, node.Address, string(node.OS)})
	case "/bytes":
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil {
			l.t.Error(err)
		}
		if _, err := io.Copy(w, pattern(n, 7)); err != nil {
			l.t.Error(err)
		}
	case "/sink":
		hash := sha256.New()
		n, err := io.Copy(hash, r.Body)
		if err != nil {
			l.t.Error(err)
		}
		l.write(w, map[string]any{"bytes": n, "sha256": hex.EncodeToString(hash.Sum(nil))})
	}
}

func (l *playLab) write(w io.Writer, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		l.t.Error(err)
	}
}

type oneConn struct{ conns chan net.Conn }

func (o *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-o.conns:
		return c, nil
	default:
		return nil, errors.New("only one connection")
	}
}
func (o *oneConn) Close() error   { return nil }
func (o *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

func (l *playLab) checkClean(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open != 0 {
		t.Errorf("%d captures are still running", l.open)
	}
	pending := map[string]bool{}
	for _, c := range l.changes {
		if undone, ok := strings.CutPrefix(c, "no "); ok {
			delete(pending, undone)
		} else if !strings.HasPrefix(c, "mode ") {
			pending[c] = true
		}
	}
	if len(pending) > 0 {
		t.Errorf("left on the client: %v", slices.Collect(maps.Keys(pending)))
	}
	if l.mode != "dsr" {
		t.Errorf("mode is %s afterwards, was dsr", l.mode)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func TestRunTriesBothModesAndPutsTheFormerOneBack(t *testing.T) {
	lab := newPlayLab(t, topology.DSR)
	var steps, stored []string
	report, err := Run(t.Context(), lab, Options{
		Modes: []topology.Mode{topology.SNAT, topology.DSR}, TransferBytes: 100_000,
		Progress: func(m string) { steps = append(steps, m) },
		Pcapng: func(service uint32, mode topology.Mode) (io.WriteCloser, error) {
			stored = append(stored, string(mode))
			return nopCloser{io.Discard}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		// Connections are played one after the other: no two are open at once;
		// the sim's ephemeral range is not the lab's to tell.
		if c.Name == portOfItsOwn || c.Name == poolApart {
			continue
		}
		if c.Status != Pass {
			t.Errorf("%s %s: %s\n%s", c.Mode, c.Name, c.Status, c.Details())
		}
	}
	if len(report.Checks) != 47 || report.Lab != "l4lb" || report.Duration <= 0 {
		t.Errorf("%d checks of lab %s in %s", len(report.Checks), report.Lab, report.Duration)
	}
	if !slices.Equal(stored, []string{"snat", "dsr"}) || len(steps) == 0 {
		t.Errorf("stored %v, told %q", stored, steps)
	}
	lab.checkClean(t)
}

func TestPortsThatTheClientDoesNotGiveAreReplaced(t *testing.T) {
	first := uint16(40000)
	outside := newPorts(first).outside
	for _, c := range []struct {
		name string
		held func(netip.AddrPort) bool
	}{
		{"hundreds in a row, outside the pool too", func(a netip.AddrPort) bool {
			return a.Port() >= first && a.Port() < first+500 || a.Port() >= outside && a.Port() < outside+500
		}},
		{"every second one", func(a netip.AddrPort) bool { return a.Port()%2 == 0 }},
		{"those of the second address alone", func(a netip.AddrPort) bool {
			return a.Addr() != fiveMachines().Client.Address && a.Port()%4 != 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := newPlayLab(t, topology.DSR)
			lab.held = c.held
			report, err := Run(t.Context(), lab, Options{
				Modes: []topology.Mode{topology.SNAT, topology.DSR}, TransferBytes: 100_000, FirstPort: first,
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, check := range report.Checks {
				if check.Name == portOfItsOwn || check.Name == poolApart { // see above
					continue
				}
				if check.Status != Pass {
					t.Errorf("%s %s: %s\n%s", check.Mode, check.Name, check.Status, check.Details())
				}
			}
			lab.checkClean(t)
		})
	}
}

func TestRunWaitsForPortsThatAFarClientGivesBackLate(t *testing.T) {
	lab := newPlayLab(t, topology.DSR)
	var mu sync.Mutex
	dials := map[netip.AddrPort]int{}
	lab.held = func(a netip.AddrPort) bool {
		mu.Lock()
		defer mu.Unlock()
		dials[a]++
		return dials[a] == 2
	}
	report, err := Run(t.Context(), lab, Options{TransferBytes: 1000, FirstPort: 40000})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(report.Checks, func(c Check) bool { return c.Name == everyAnswer })
	if c := report.Checks[i]; c.Status != Pass {
		t.Errorf("%s: %s\n%s", c.Name, c.Status, c.Details())
	}
	again := 0
	for _, n := range dials {
		if n > 2 {
			again++
		}
	}
	if again != repeatedTuples {
		t.Errorf("%d ports were waited for, want %d", again, repeatedTuples)
	}
	lab.checkClean(t)
}

func TestRunEndsThoughTheClientGivesNoPort(t *testing.T) {
	lab := newPlayLab(t, topology.DSR)
	lab.held = func(netip.AddrPort) bool { return true }
	report, err := Run(t.Context(), lab, Options{TransferBytes: 1000, FirstPort: 40000})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(report.Checks, func(c Check) bool { return c.Name == everyAnswer })
	if c := report.Checks[i]; c.Status != Fail || !strings.Contains(c.Details(), "address already in use") {
		t.Errorf("%s: %s\n%s", c.Name, c.Status, c.Details())
	}
	lab.checkClean(t)
}

func TestRunThatIsCancelledLeavesTheLabAsItWas(t *testing.T) {
	lab := newPlayLab(t, topology.DSR)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("interrupted")
	lab.onDial = func() { cancel(cause) }
	_, err := Run(ctx, lab, Options{Modes: []topology.Mode{topology.SNAT}, TransferBytes: 1000})
	if !errors.Is(err, cause) {
		t.Errorf("Run = %v, want the cause", err)
	}
	lab.checkClean(t)
}

func TestRunThatCannotCaptureSaysWhereAndStopsWhatItStarted(t *testing.T) {
	lab := newPlayLab(t, topology.DSR)
	lab.refuse = capture.Place{Machine: "be2"}
	_, err := Run(t.Context(), lab, Options{Modes: []topology.Mode{topology.SNAT}})
	if err == nil || !strings.Contains(err.Error(), "be2 eth0") {
		t.Errorf("Run = %v, want the place", err)
	}
	lab.checkClean(t)
}

func TestRunSaysWhatIsWrongWithItsOptions(t *testing.T) {
	if _, err := Run(t.Context(), newPlayLab(t, topology.DSR), Options{FirstPort: 80}); err == nil {
		t.Error("a first port outside the pool: want an error")
	}
}

func TestManyBackendsAreCapturedUpToABound(t *testing.T) {
	lab := newPlayLab(t, topology.DSR)
	report, err := Run(t.Context(), lab, Options{TransferBytes: 1000, MaxCapturedBackends: 2, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		if c.Status == Fail {
			t.Errorf("%s\n%s", c.Name, c.Details())
		}
	}
	if !strings.Contains(report.Checks[0].Seen, "4 places of further backends were not captured") {
		t.Errorf("captures: %s", report.Checks[0].Seen)
	}
}
