package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/capability"
	"l4lab/agent/datapath"
)

func TestObservingCommandsAskTheAgentAndPrint(t *testing.T) {
	for _, c := range []struct{ name, line, asked, prints, prints2 string }{
		{"monitor of everything", "monitor", "events 0 [] 0",
			"03:04:05.678 new     tcp 20.1.1.100:40000 > 40.1.1.1:80 backend 20.1.1.10:80 service 1 mode dsr\n03:04:05.678 dropped tcp 20.1.1.100:40000 > 40.1.1.1:80 service 1 reason no_backend\n",
			"2 events; not shown: 7 beyond the rate, 8 lost in the data path, 9 for which this was too slow"},
		{"monitor of some", "monitor --service 3 --kind new,dropped --rate 50 -o json", "events 3 [new dropped] 50", `"kind":"new"`, "not shown"},
		{"trace", "trace --from 20.1.1.100:40000 --to 40.1.1.1:80", "trace tcp 20.1.1.100:40000 40.1.1.1:80  0 false",
			"1. first", "forward to 20.1.1.10:80 by dsr, a new flow"},
		{"trace of a SYN", "trace --from 20.1.1.100:40000 --to 40.1.1.1:81 --syn", "trace tcp 20.1.1.100:40000 40.1.1.1:81 S 0 false", "2. last", "drop: no_backend"},
		{"trace of no SYN", "trace --from 20.1.1.100:40000 --to 40.1.1.1:80 --syn=false --length 1500 --may-fragment",
			"trace tcp 20.1.1.100:40000 40.1.1.1:80 A 1500 true", "first", "forward"},
		{"trace of UDP over IPv6", "trace --proto udp --from [fd00::5]:53 --to [fd00:40::1]:80", "trace udp [fd00::5]:53 [fd00:40::1]:80  0 false", "first", "forward"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSession(t)
			code, out, errOut := s.run(t, "", append(strings.Fields(c.line), "--socket", "%SOCKET")...)
			if code != 0 || !strings.Contains(out, c.prints) || !strings.Contains(out+errOut, c.prints2) {
				t.Errorf("exit code %d, printed\n%s%s", code, out, errOut)
			}
			if !reflect.DeepEqual(s.agent.asked, []string{c.asked}) {
				t.Errorf("asked %q, want %q", s.agent.asked, c.asked)
			}
		})
	}
}

func TestHealthShowsWhyABackendIsQuarantined(t *testing.T) {
	_, out, _ := newSession(t).run(t, "", "health", "--socket", "%SOCKET")
	if text := strings.Join(strings.Fields(out), " "); !strings.Contains(text, "1 20.1.1.10:80 quarantined failed 4 1.2ms connection refused") {
		t.Errorf("printed %q", text)
	}
}

func TestCapabilitiesAreTheAgentsOrThoseThatWereAskedFor(t *testing.T) {
	for _, c := range []struct{ name, line, profile string }{
		{"the agent's", "capabilities -o json --socket %SOCKET", "xdp"},
		{"without an agent", "capabilities -o json --socket %SOCKET.nobody", defaultCapabilities},
		{"another's", "capabilities -o json --profile efw-0.21 --socket %SOCKET", "efw-0.21"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errOut := newSession(t).run(t, "", strings.Fields(c.line)...)
			var report api.Capabilities
			if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 {
				t.Fatalf("exit code %d, %v: %s", code, err, errOut)
			}
			if report.Profile != c.profile || len(report.Features) < 20 {
				t.Errorf("profile %s with %d features", report.Profile, len(report.Features))
			}
		})
	}
}

func TestCapabilitiesInWordsSayWhyNot(t *testing.T) {
	_, out, _ := newSession(t).run(t, "", "capabilities", "--socket", "%SOCKET")
	for _, want := range []string{"profile xdp: ", "DSR by IP-in-IP, 4in4", "no   bpf_xdp_adjust_head of XDP for Windows always fails", "modes\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

func TestRequirementsThatTheMachineLacksAreSaid(t *testing.T) {
	lacks := missing([]datapath.Requirement{
		{Name: "ring buffer", Since: "Linux 5.8", Probe: func() error { return errors.New("not supported") }},
		{Name: "XDP", Since: "Linux 4.8", Probe: func() error { return fmt.Errorf("probe: %w", fs.ErrPermission) }},
		{Name: "maps", Since: "Linux 3.18", Probe: func() error { return nil }},
	})
	if want := []string{"ring buffer (Linux 5.8): not supported"}; !reflect.DeepEqual(lacks, want) {
		t.Errorf("got %q, want %q", lacks, want)
	}
}

func TestWrongWordsOfObservingCommandsAreWrongUsage(t *testing.T) {
	for _, c := range []struct{ name, line, says string }{
		{"an unknown kind", "monitor --kind opened", "opened"},
		{"a source that is none", "trace --from here --to 40.1.1.1:80", "--from"},
		{"no destination", "trace --from 20.1.1.100:1", "to"},
		{"an unknown protocol", "trace --proto sctp --from 20.1.1.100:1 --to 40.1.1.1:80", "sctp"},
		{"two families", "trace --from [fd00::1]:1 --to 40.1.1.1:80", "family"},
		{"unknown flags", "trace --from 20.1.1.100:1 --to 40.1.1.1:80 --flags X", "flags"},
		{"a packet shorter than its headers", "trace --from 20.1.1.100:1 --to 40.1.1.1:80 --length 39", "shortest"},
		{"SYN and flags", "trace --from 20.1.1.100:1 --to 40.1.1.1:80 --syn --flags A", "syn"},
		{"an unknown profile", "capabilities --profile bsd", "bsd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, _, errOut := newSession(t).run(t, "", append(strings.Fields(c.line), "--socket", "%SOCKET")...)
			if code != exitUsage || !strings.Contains(errOut, c.says) {
				t.Errorf("exit code %d: %s", code, errOut)
			}
		})
	}
}

func (f *fakeAgent) Events(_ context.Context, q api.EventQuery, send func(api.EventMessage) error) error {
	f.asked = append(f.asked, fmt.Sprintf("events %d %v %d", q.ServiceID, q.Kinds, q.Rate))
	source, dest := netip.MustParseAddrPort("20.1.1.100:40000"), netip.MustParseAddrPort("40.1.1.1:80")
	at := time.Date(2030, 1, 2, 3, 4, 5, 678e6, time.Local)
	for _, m := range []api.EventMessage{
		{Loss: &api.EventLoss{}},
		{Event: &api.FlowEvent{Time: at, Kind: api.FlowNew, Protocol: "tcp", Source: source, Dest: dest, ServiceID: 1, Mode: "dsr",
			Backend: netip.MustParseAddrPort("20.1.1.10:80")}},
		{Event: &api.FlowEvent{Time: at, Kind: api.FlowDropped, Protocol: "tcp", Source: source, Dest: dest, ServiceID: 1, Reason: "no_backend"}},
		{Loss: &api.EventLoss{Suppressed: 7, Lost: 8, Missed: 9}},
	} {
		if err := send(m); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeAgent) Trace(_ context.Context, p api.TracePacket) (api.Trace, error) {
	f.asked = append(f.asked, fmt.Sprintf("trace %s %s %s %s %d %t", p.Protocol, p.From, p.To, p.Flags, p.Length, p.MayFragment))
	if p.To.Port() == 81 {
		return api.Trace{Packet: p, Verdict: api.Dropped, Reason: "no_backend", Steps: []string{"first", "last"}}, nil
	}
	return api.Trace{Packet: p, Verdict: api.Forwarded, Mode: "dsr", Opens: true,
		Backend: &api.TraceBackend{ID: 1, Address: netip.MustParseAddrPort("20.1.1.10:80")}, Steps: []string{"first", "last"}}, nil
}

func (f *fakeAgent) Health(context.Context) ([]api.BackendHealth, error) {
	return []api.BackendHealth{{ServiceID: 1, Backend: netip.MustParseAddrPort("20.1.1.10:80"), Health: "quarantined",
		Result: "failed", Error: "connection refused", Consecutive: 4, Duration: 0.0012}}, nil
}

func (f *fakeAgent) Capabilities(context.Context) (api.Capabilities, error) {
	return capability.Report(capability.XDP), nil
}
