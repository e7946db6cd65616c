package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestObservingRequestsTravelWhole(t *testing.T) {
	agent := &fakeAgent{}
	client := serve(t, agent)
	var got []EventMessage
	err := client.Events(t.Context(), EventQuery{ServiceID: 7, Kinds: []EventKind{FlowNew, FlowDropped}, Rate: 50}, func(m EventMessage) error {
		got = append(got, m)
		return nil
	})
	want := []EventMessage{{Loss: &EventLoss{Missed: 3}}, {Event: &FlowEvent{Kind: FlowNew, ServiceID: 1}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("events: got %+v, %v", got, err)
	}
	packet := TracePacket{Protocol: "tcp", From: netip.MustParseAddrPort("[fd00::5]:4000"), To: netip.MustParseAddrPort("[fd00:40::1]:80"),
		Flags: "SA", Length: 1500, MayFragment: true}
	if trace, err := client.Trace(t.Context(), packet); err != nil || trace.Packet != packet || trace.Verdict != Forwarded {
		t.Errorf("trace: got %+v, %v", trace, err)
	}
	if all, err := client.Health(t.Context()); err != nil || len(all) != 1 || all[0].Health != "quarantined" {
		t.Errorf("health: got %+v, %v", all, err)
	}
	if c, err := client.Capabilities(t.Context()); err != nil || c.Profile != "linux" {
		t.Errorf("capabilities: got %+v, %v", c, err)
	}
	asked := []string{"events 7 [new dropped] 50", "trace", "health", "capabilities"}
	if !reflect.DeepEqual(agent.asked, asked) {
		t.Errorf("asked %q, want %q", agent.asked, asked)
	}
}

// The agent's server has a read timeout, which is for requests.
func TestEventsOutliveTheServersReadTimeout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 100 * time.Millisecond
	server := http.Server{Handler: Handler(&fakeAgent{}), ReadTimeout: timeout}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 5*timeout)
	defer cancel()
	begin := time.Now()
	err = NewUnixClient(path).Events(ctx, EventQuery{Rate: endless}, func(EventMessage) error { return nil })
	if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took < 4*timeout {
		t.Errorf("ended after %s with %v", took, err)
	}
}

func TestListenerThatHasEnoughEndsItsEvents(t *testing.T) {
	enough := errors.New("enough")
	err := serve(t, &fakeAgent{}).Events(t.Context(), EventQuery{Rate: endless}, func(EventMessage) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

func TestEventsOfAnAgentThatFailsAreItsError(t *testing.T) {
	err := serve(t, &fakeAgent{err: errors.New("no ring")}).Events(t.Context(), EventQuery{}, func(EventMessage) error { return nil })
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Code != http.StatusInternalServerError || refusal.Message != "no ring" {
		t.Errorf("got %v", err)
	}
}

// Else a listener would take it for the agent's end.
func TestEventsThatEndByAnErrorSaySo(t *testing.T) {
	got := 0
	err := serve(t, &fakeAgent{}).Events(t.Context(), EventQuery{Rate: breaking}, func(EventMessage) error { got++; return nil })
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Message != "the ring broke" || got != 2 {
		t.Errorf("got %d messages and %v", got, err)
	}
}

func TestWrongQueriesAreRefusedWithTheirField(t *testing.T) {
	for _, c := range []struct {
		name, method, target, field string
		code                        int
	}{
		{"an unknown kind", "GET", "/v1/events?kind=opened", "kind", 400},
		{"a service that is no number", "GET", "/v1/events?service=x", "service", 400},
		{"a rate of 0", "GET", "/v1/events?rate=0", "rate", 400},
		{"an unknown parameter", "GET", "/v1/events?kinds=new", "kinds", 400},
		{"a parameter given twice", "GET", "/v1/events?rate=1&rate=2", "rate", 400},
		{"a parameter of a path that has none", "GET", "/v1/services?id=1", "id", 400},
		{"events that are put", "PUT", "/v1/events", "", 405},
		{"a trace without a protocol", "GET", "/v1/trace?from=1.1.1.1:1&to=2.2.2.2:2", "proto", 400},
		{"a trace from nowhere", "GET", "/v1/trace?proto=tcp&to=2.2.2.2:2", "from", 400},
		{"a trace to nowhere", "GET", "/v1/trace?proto=tcp&from=2.2.2.2:2&to=x", "to", 400},
		{"a trace between families", "GET", "/v1/trace?proto=tcp&from=2.2.2.2:2&to=[fd00::1]:1", "to", 400},
		{"a trace of an address mapped into IPv6", "GET", "/v1/trace?proto=tcp&from=2.2.2.2:2&to=[::ffff:1.1.1.1]:1", "to", 400},
		{"a trace of UDP with flags", "GET", "/v1/trace?proto=udp&from=2.2.2.2:2&to=1.1.1.1:1&flags=S", "flags", 400},
		{"a trace of flags that are none", "GET", "/v1/trace?proto=tcp&from=2.2.2.2:2&to=1.1.1.1:1&flags=s", "flags", 400},
		{"a trace of a packet that is too long", "GET", "/v1/trace?proto=tcp&from=2.2.2.2:2&to=1.1.1.1:1&length=70000", "length", 400},
		{"a trace of a truth that is none", "GET", "/v1/trace?proto=tcp&from=2.2.2.2:2&to=1.1.1.1:1&mayFragment=perhaps", "mayFragment", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			agent := &fakeAgent{}
			w := httptest.NewRecorder()
			Handler(agent).ServeHTTP(w, httptest.NewRequest(c.method, c.target, nil))
			body, _ := io.ReadAll(w.Body)
			if w.Code != c.code || !strings.Contains(string(body), `"error"`) || c.field != "" && !strings.Contains(string(body), `"field":"`+c.field+`"`) {
				t.Errorf("got %d %s", w.Code, body)
			}
			if len(agent.asked) > 0 {
				t.Errorf("the agent was asked %q", agent.asked)
			}
		})
	}
}

func (f *fakeAgent) Events(ctx context.Context, q EventQuery, send func(EventMessage) error) error {
	if err := f.note("events %d %v %d", q.ServiceID, q.Kinds, q.Rate); err != nil {
		return err
	}
	if err := send(EventMessage{Loss: &EventLoss{Missed: 3}}); err != nil {
		return err
	}
	if err := send(EventMessage{Event: &FlowEvent{Kind: FlowNew, ServiceID: 1}}); err != nil {
		return err
	}
	if q.Rate == endless {
		<-ctx.Done()
	}
	if q.Rate == breaking {
		return errors.New("the ring broke")
	}
	return nil
}

// endless is the rate at which the fake's events do not end, breaking that at which they end by an error.
const (
	endless  = 77
	breaking = 78
)

func (f *fakeAgent) Trace(_ context.Context, p TracePacket) (Trace, error) {
	return Trace{Packet: p, Verdict: Forwarded}, f.note("trace")
}

func (f *fakeAgent) Health(context.Context) ([]BackendHealth, error) {
	return []BackendHealth{{ServiceID: 1, Health: "quarantined"}}, f.note("health")
}

func (f *fakeAgent) Capabilities(context.Context) (Capabilities, error) {
	return Capabilities{Profile: "linux"}, f.note("capabilities")
}
