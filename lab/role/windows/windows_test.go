package windows

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/role"
	"l4lab/topology"
)

var (
	agent = role.Agent{Address: netip.MustParseAddr("20.1.1.10"), Program: "lbagent.exe", Hash: "aa"}
	strip = role.Decap{Hook: role.XDP, Address: netip.MustParseAddr("20.1.1.10"), Balancer: netip.MustParseAddr("20.1.1.1"), Program: "lbagent.exe", Hash: "aa"}
	page  = role.Page{Name: "be1", OS: topology.Windows, Address: netip.MustParseAddr("20.1.1.10"), TCP: []uint16{80}, UDP: []uint16{53}, Program: "lbagent.exe", Hash: "aa"}
)

func TestAServiceRunsAsAskedAndIsFoundAgain(t *testing.T) {
	b, m := newBox(t)
	if err := errors.Join(m.EnsureAgent(t.Context(), agent), m.EnsureDecap(t.Context(), strip), m.EnsurePage(t.Context(), page),
		m.EnsureVIPs(t.Context(), []netip.Addr{netip.MustParseAddr("40.1.1.1")})); err != nil {
		t.Fatal(err)
	}
	for service, want := range map[string]string{
		agentService: `serve --device Ethernet 2 --address 20.1.1.10 --image C:\l4lab\lb.sys --profile efw-0.21`,
		decapService: `decap attach --interface Ethernet 2 --address 20.1.1.10 --balancer 20.1.1.1 --hook xdp --image C:\l4lab\decap_xdp.sys --pin-dir decap`,
		webService:   `web --name be1 --address 20.1.1.10 --os windows --tcp :80 --udp :53`,
	} {
		if got := strings.Join(b.services[service].Arguments, " "); got != want {
			t.Errorf("%s runs\n%s, want\n%s", service, got, want)
		}
	}
	if rule := b.rules[pageRule]; len(rule.TCP) != 1 || rule.TCP[0] != 80 || len(rule.UDP) != 1 {
		t.Errorf("the firewall lets in %+v", rule)
	}
	facts, err := m.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if facts.Agent.Spec != agent.Spec() || facts.Agent.Fault != "" || facts.Decap.Spec != strip.Spec() || facts.Decap.Fault != "" ||
		facts.Page.Spec != page.Spec() || facts.Page.PID != 7 || len(facts.VIPs) != 1 {
		t.Errorf("found %+v", facts)
	}
}

func TestAServiceThatEndedIsAFaultWithItsCode(t *testing.T) {
	b, m := newBox(t)
	if err := m.EnsurePage(t.Context(), page); err != nil {
		t.Fatal(err)
	}
	b.exits[webService], b.exits[decapService] = 5, 4
	b.services[decapService] = b.services[webService]
	facts, err := m.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if facts.Page.Fault != "exited (code 5)" || facts.Decap.Fault != "did not attach (exit code 4)" {
		t.Errorf("found %+v", facts)
	}
}

func TestAServiceThatEndsAtOnceFailsWithItsLastWords(t *testing.T) {
	b, m := newBox(t)
	b.exits[decapService] = 9
	b.files[logs+`\lbagent-decap.log`] = []byte("load the native image: access is denied")
	began := time.Now()
	err := m.EnsureDecap(t.Context(), strip)
	if err == nil || !strings.Contains(err.Error(), "exit code 9") || !strings.Contains(err.Error(), "access is denied") {
		t.Errorf("error %v", err)
	}
	if time.Since(began) > m.StartLimit {
		t.Error("it waited for what had ended")
	}
}

func TestANewProgramIsPushedWhileNothingRunsTheOldOne(t *testing.T) {
	b, m := newBox(t)
	if err := errors.Join(m.EnsureDecap(t.Context(), strip), m.EnsurePage(t.Context(), page)); err != nil {
		t.Fatal(err)
	}
	next := strip
	next.Hash = "bb"
	if err := m.EnsureDecap(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, runs := b.services[webService]; runs {
		t.Error("the page's service still runs the old program")
	}
	if got := string(b.files[Program]); got != "bb" {
		t.Errorf("the program is %q", got)
	}
}

func TestRemoveTakesTheServiceAndWhatItHadAttached(t *testing.T) {
	b, m := newBox(t)
	if err := errors.Join(m.EnsureAgent(t.Context(), agent), m.EnsureDecap(t.Context(), strip), m.EnsurePage(t.Context(), page)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []role.Subject{role.SubjectAgent, role.SubjectDecap, role.SubjectPage} {
		if err := m.Remove(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.services) != 0 {
		t.Errorf("services %v are left", b.services)
	}
	var lines []string
	for _, e := range b.execs {
		lines = append(lines, strings.Join(e.Arguments, " "))
	}
	for _, want := range []string{"unload", "decap detach --pin-dir decap"} {
		if !strings.Contains(strings.Join(lines, "\n"), want) {
			t.Errorf("%q was not run: %v", want, lines)
		}
	}
	delete(b.files, Program)
	if err := m.Remove(t.Context(), role.SubjectAgent); err != nil {
		t.Errorf("a machine without the program: %v", err)
	}
}

func TestRunPassesStreamsAndTellsHowItEnded(t *testing.T) {
	_, m := newBox(t)
	var out, words bytes.Buffer
	err := m.Run(t.Context(), guest.Command{Argv: []string{"upper"}, Stdin: strings.NewReader("abc"), Stdout: &out, Stderr: &words})
	if err != nil || out.String() != "ABC" || words.String() != "words" {
		t.Errorf("out %q, err %q, error %v", out.String(), words.String(), err)
	}
	var exit *guest.ExitError
	if err := m.Run(t.Context(), guest.Command{Argv: []string{"false"}}); !errors.As(err, &exit) || exit.Code != 3 || exit.Stderr != "no luck" {
		t.Errorf("error %v", err)
	}
	if err := m.Run(t.Context(), guest.Command{Argv: []string{"nosuch"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
	if err := m.Run(t.Context(), guest.Command{Argv: []string{"slow"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want DeadlineExceeded", err)
	}
	if err := m.Run(t.Context(), guest.Command{Argv: []string{"upper"}, Stdin: io.LimitReader(zeros{}, maxStdin+1)}); !errors.Is(err, ErrTooLong) {
		t.Errorf("error %v, want ErrTooLong", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestPullReadsInPiecesAndKnowsTheLogs(t *testing.T) {
	b, m := newBox(t)
	long := bytes.Repeat([]byte("0123456789"), pieceBytes/8)
	b.files[Folder+`\sub\big`] = long
	b.files[logs+`\lbagent.log`] = []byte("hello")
	for path, want := range map[string][]byte{"sub/big": long, "agent.log": []byte("hello"), Folder + `\sub\big`: long} {
		f, err := m.Pull(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", path, len(got), err, len(want))
		}
	}
	if _, err := m.Pull(t.Context(), "web.log"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	for _, outside := range []string{"../x", `..\x`, "/etc/passwd", `D:x`} {
		if _, err := m.Pull(t.Context(), outside); !errors.Is(err, guest.ErrOutside) {
			t.Errorf("%s: error %v, want ErrOutside", outside, err)
		}
	}
}

func TestDialServesHTTPExchanges(t *testing.T) {
	_, m := newBox(t)
	if err := errors.Join(m.EnsureAgent(t.Context(), agent), m.EnsurePage(t.Context(), page)); err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "agent") {
			return m.Dial(ctx, "unix", "", "agent.sock")
		}
		return m.Dial(ctx, "tcp", "", address)
	}}}
	for range 2 {
		response, err := client.Post("http://20.1.1.10:80/echo", "text/plain", strings.NewReader(strings.Repeat("x", 100000)))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || len(body) != 100000 || response.Header.Get("X-Backend") != "be1" {
			t.Errorf("%d bytes, %v, %v", len(body), response.Header, err)
		}
	}
	response, err := client.Get("http://agent/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(response.Body); string(body) != `{"path":"/v1/status"}` {
		t.Errorf("the agent answers %s", body)
	}
}

func TestDialErrorsComeWithTheAnswer(t *testing.T) {
	_, m := newBox(t)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return m.Dial(ctx, "tcp", "", address)
	}}}
	if _, err := client.Get("http://20.1.1.10:80/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v, want ECONNREFUSED", err)
	}
	if _, err := m.Dial(t.Context(), "udp", "", "20.1.1.10:53"); !errors.Is(err, ErrNoStream) {
		t.Errorf("error %v, want ErrNoStream", err)
	}
}

func TestPortsAndRoutes(t *testing.T) {
	b, m := newBox(t)
	low, high, err := m.EphemeralPorts(t.Context())
	if err != nil || low != 49152 || high != 65535 {
		t.Errorf("%d-%d, %v", low, high, err)
	}
	if err := m.EnsureSourcePorts(t.Context(), 1025, 32767); err != nil {
		t.Error(err)
	}
	if low, high, err := m.EphemeralPorts(t.Context()); err != nil || low != 1025 || high != 32767 {
		t.Errorf("after EnsureSourcePorts: %d-%d, %v", low, high, err)
	}
	b.facts.DynamicPortCount = 0
	if _, _, err := m.EphemeralPorts(t.Context()); err == nil {
		t.Error("no range is no error")
	}
	if err := m.EnsureRoutes(t.Context(), nil); err != nil {
		t.Error(err)
	}
	b.facts.Adapters = nil
	if err := m.EnsureAgent(t.Context(), agent); err == nil || !strings.Contains(err.Error(), "no adapter has the MAC 00-15-5D-01-01-0A") {
		t.Errorf("error %v", err)
	}
}
