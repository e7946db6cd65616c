package windows

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/guest/relay"
	"l4lab/lab/powershell"
	"l4lab/lab/powershell/powershelltest"
	"l4lab/lab/role/windows/guestscripts"
)

// box is a Windows machine of a test: what the scripts would have changed.
type box struct {
	*powershelltest.Machine
	mu       sync.Mutex
	facts    guestscripts.FactsResult
	files    map[string][]byte
	uploads  []string
	rules    map[string]guestscripts.FirewallEnsureParams
	services map[string]guestscripts.ServiceEnsureParams
	execs    []guestscripts.ExecParams
	attached bool
	// exits are the codes with which services end at once.
	exits map[string]int
}

func newBox(t *testing.T) (*box, *Machine) {
	t.Helper()
	b := &box{Machine: powershelltest.New(), files: map[string][]byte{}, rules: map[string]guestscripts.FirewallEnsureParams{},
		services: map[string]guestscripts.ServiceEnsureParams{}, exits: map[string]int{}}
	b.facts = guestscripts.FactsResult{
		DynamicPortFirst: 49152, DynamicPortCount: 16384,
		Adapters: []guestscripts.AdapterFacts{{Name: "Ethernet 2", MAC: "00-15-5D-01-01-0A", MTU: 1500, Addresses: []string{"20.1.1.10/24"}}},
	}
	b.answer(guestscripts.New())
	m, err := New(Options{
		Machine: "be1", Address: netip.MustParseAddr("20.1.1.10"), MAC: net.HardwareAddr{0, 0x15, 0x5d, 1, 1, 10}, Runner: b,
		Upload:     func(_ context.Context, _, hash, path string) error { return b.upload(hash, path) },
		StartLimit: 3 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b, m
}

func (b *box) upload(hash, path string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.services) > 0 && string(b.files[path]) != hash && b.files[path] != nil {
		return fmt.Errorf("%s is in use", path)
	}
	b.files[path] = []byte(hash)
	b.uploads = append(b.uploads, path)
	return nil
}

func (b *box) answer(v guestscripts.Verbs) {
	powershelltest.On(b.Machine, v.Facts, func(context.Context, guestscripts.None) (guestscripts.FactsResult, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		f := b.facts
		for name, s := range b.services {
			state := guestscripts.ServiceFacts{Name: name, State: "Running", PID: 7, Spec: s.Spec}
			if code, ended := b.exits[name]; ended || name == decapService {
				state.State, state.PID, state.ExitCode = "Stopped", 0, code
			}
			f.Services = append(f.Services, state)
		}
		return f, nil
	})
	powershelltest.On(b.Machine, v.VIPsEnsure, func(_ context.Context, p guestscripts.VIPsEnsureParams) (guestscripts.Changed, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.facts.VIPs = p.Addresses
		return guestscripts.Changed{Changed: true}, nil
	})
	powershelltest.On(b.Machine, v.FirewallEnsure, func(_ context.Context, p guestscripts.FirewallEnsureParams) (guestscripts.Changed, error) {
		b.rules[p.Name] = p
		return guestscripts.Changed{}, nil
	})
	powershelltest.On(b.Machine, v.PortsEnsure, func(_ context.Context, p guestscripts.PortsEnsureParams) (guestscripts.Changed, error) {
		b.facts.DynamicPortFirst, b.facts.DynamicPortCount = p.First, p.Count
		return guestscripts.Changed{Changed: true}, nil
	})
	powershelltest.On(b.Machine, v.ServiceEnsure, func(_ context.Context, p guestscripts.ServiceEnsureParams) (guestscripts.Changed, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.services[p.Name] = p
		b.attached = b.attached || p.Name == decapService && b.exits[p.Name] == 0
		return guestscripts.Changed{Changed: true}, nil
	})
	powershelltest.On(b.Machine, v.ServiceRemove, func(_ context.Context, p guestscripts.ServiceRemoveParams) (guestscripts.Changed, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.services, p.Name)
		return guestscripts.Changed{}, nil
	})
	powershelltest.On(b.Machine, v.IISEnsure, func(_ context.Context, p guestscripts.IISEnsureParams) (guestscripts.RebootResult, error) {
		return guestscripts.RebootResult{}, nil
	})
	b.answerFiles(v)
	powershelltest.On(b.Machine, v.Exec, b.exec)
}

func (b *box) answerFiles(v guestscripts.Verbs) {
	powershelltest.On(b.Machine, v.FileProbe, func(_ context.Context, p guestscripts.FileParams) (guestscripts.FileProbeResult, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		data, ok := b.files[p.Path]
		return guestscripts.FileProbeResult{Exists: ok, Bytes: int64(len(data)), SHA256: string(data)}, nil
	})
	powershelltest.On(b.Machine, v.FileRead, func(_ context.Context, p guestscripts.FileReadParams) (guestscripts.FileReadResult, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		data := b.files[p.Path][p.Offset:]
		return guestscripts.FileReadResult{Data: encode(data[:min(int64(len(data)), p.Bytes)]), Bytes: int64(len(b.files[p.Path]))}, nil
	})
	powershelltest.On(b.Machine, v.FileWrite, func(_ context.Context, p guestscripts.FileWriteParams) (guestscripts.Changed, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		data, err := base64.StdEncoding.DecodeString(p.Data)
		b.files[p.Path] = data
		return guestscripts.Changed{Changed: true}, err
	})
	powershelltest.On(b.Machine, v.FileRemove, func(_ context.Context, p guestscripts.FileParams) (guestscripts.Changed, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.files, p.Path)
		return guestscripts.Changed{}, nil
	})
}

// exec is the machine's lbagent.exe, and a few programs to try Run with.
func (b *box) exec(ctx context.Context, p guestscripts.ExecParams) (guestscripts.ExecResult, error) {
	b.mu.Lock()
	b.execs = append(b.execs, p)
	attached, _ := json.Marshal(api.DecapStatus{Attached: b.attached})
	b.mu.Unlock()
	line := strings.Join(append([]string{p.Program}, p.Arguments...), " ")
	stdin, err := base64.StdEncoding.DecodeString(p.Stdin)
	if err != nil {
		return guestscripts.ExecResult{}, err
	}
	switch {
	case p.Program == Program && slices.Equal(p.Arguments[:1], []string{"relay"}):
		return b.relay(ctx, p.Arguments, stdin)
	case strings.HasPrefix(line, Program+" decap status"):
		return guestscripts.ExecResult{Stdout: encode(attached)}, nil
	case strings.HasPrefix(line, Program):
		return guestscripts.ExecResult{}, nil
	case p.Program == "upper":
		return guestscripts.ExecResult{Stdout: encode(bytes.ToUpper(stdin)), Stderr: encode([]byte("words"))}, nil
	case p.Program == "false":
		return guestscripts.ExecResult{ExitCode: 3, Stderr: encode([]byte("no luck"))}, nil
	case p.Program == "slow":
		return guestscripts.ExecResult{TimedOut: true}, nil
	}
	return guestscripts.ExecResult{}, &powershell.ScriptError{Script: "exec", Code: guestscripts.NotFound, Message: "no such program", Target: p.Program}
}

// relay runs the real relay against the agent or the page.
func (b *box) relay(ctx context.Context, argv []string, stdin []byte) (guestscripts.ExecResult, error) {
	if !slices.Contains(argv, "--until-closed") {
		return guestscripts.ExecResult{}, errors.New("the end of the request would cancel it")
	}
	network := argv[slices.Index(argv, "--")+1]
	var handler http.Handler
	b.mu.Lock()
	_, agent := b.services[agentService]
	page, served := b.services[webService]
	b.mu.Unlock()
	switch {
	case network == relay.Agent && agent:
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, `{"path":%q}`, r.URL.Path) })
	case network == relay.TCP && served:
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Backend", page.Arguments[2])
			_, _ = io.Copy(w, r.Body)
		})
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		if handler == nil {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", "127.0.0.1:1")
		}
		near, far := net.Pipe()
		go func() { _ = http.Serve(&one{conn: far}, handler) }()
		return near, nil
	}
	var out bytes.Buffer
	if err := relay.Serve(ctx, relay.Target{Network: network}, dial, bytes.NewReader(stdin), &out); err != nil {
		return guestscripts.ExecResult{ExitCode: 1, Stdout: encode(out.Bytes()), Stderr: encode([]byte(err.Error()))}, nil
	}
	return guestscripts.ExecResult{Stdout: encode(out.Bytes())}, nil
}

// one is a listener that has one connection to give.
type one struct{ conn net.Conn }

func (l *one) Accept() (net.Conn, error) {
	conn := l.conn
	if conn == nil {
		return nil, net.ErrClosed
	}
	l.conn = nil
	return conn, nil
}

func (l *one) Close() error   { return nil }
func (l *one) Addr() net.Addr { return &net.UnixAddr{Name: "one", Net: "unix"} }
