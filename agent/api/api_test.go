package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fakeAgent remembers what it was asked and answers with what it has.
type fakeAgent struct {
	asked    []string
	services map[uint32]Service
	err      error
}

func (f *fakeAgent) note(format string, args ...any) error {
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	return f.err
}

func (f *fakeAgent) Status(context.Context) (Status, error) {
	return Status{PID: 7, Interface: Interface{Address: netip.MustParseAddr("20.1.1.1")}}, f.note("status")
}

func (f *fakeAgent) Services(context.Context) ([]Service, error) {
	var all []Service
	for _, s := range f.services {
		all = append(all, s)
	}
	return all, f.note("services")
}

func (f *fakeAgent) Service(_ context.Context, id uint32) (Service, error) {
	s, ok := f.services[id]
	if !ok {
		return s, &Error{Field: "id", Message: "there is none", Code: http.StatusNotFound}
	}
	return s, f.note("service %d", id)
}

func (f *fakeAgent) PutService(_ context.Context, s Service) (Service, error) {
	if f.services == nil {
		f.services = make(map[uint32]Service)
	}
	f.services[s.ID] = s
	s.Mode = "dsr"
	return s, f.note("put %d %s %v", s.ID, s.Frontend, s.Backends)
}

func (f *fakeAgent) PutServices(_ context.Context, all []Service) ([]Service, error) {
	return all, f.note("put all %d", len(all))
}

func (f *fakeAgent) DeleteService(_ context.Context, id uint32) error { return f.note("delete %d", id) }

func (f *fakeAgent) Connections(_ context.Context, id uint32) ([]Connection, error) {
	sent := uint64(5)
	return []Connection{{ServiceID: 1, State: Active, TxBytes: nil}, {ServiceID: 2, TxBytes: &sent}}, f.note("connections %d", id)
}

func (f *fakeAgent) Counters(context.Context) (Counters, error) {
	return Counters{Drops: map[string]uint64{"no_backend": 3}}, f.note("counters")
}

func (f *fakeAgent) Neighbours(context.Context) ([]Neighbour, error) {
	return nil, f.note("neighbours")
}

func (f *fakeAgent) RefreshNeighbour(_ context.Context, a netip.Addr) (Neighbour, error) {
	return Neighbour{Address: a, MAC: "02:00:00:00:00:01"}, f.note("refresh %s", a)
}

func (f *fakeAgent) SetMode(_ context.Context, u ModeUpdate) error {
	return f.note("mode %s %d", u.Mode, u.ServiceID)
}

func (f *fakeAgent) Unload(context.Context) error { return f.note("unload") }

func (f *fakeAgent) Diff(context.Context) (Diff, error) {
	return Diff{Desired: "state", Same: true, Services: []ServiceDiff{}}, f.note("diff")
}

func (f *fakeAgent) DiffWith(_ context.Context, all []Service) (Diff, error) {
	return Diff{Desired: "request", Services: []ServiceDiff{{ID: 1, Frontend: netip.MustParseAddrPort("40.1.1.1:80"), Protocol: "tcp", Change: "missing"}}},
		f.note("diff with %d", len(all))
}

// serve runs an agent on a socket of its own and returns a client of it.
func serve(t *testing.T, agent Agent) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: Handler(agent)}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return NewUnixClient(path)
}

func TestClientAndHandlerSpeakTheSame(t *testing.T) {
	agent := &fakeAgent{}
	client := serve(t, agent)
	ctx := t.Context()
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	wanted := Service{
		ID:       1,
		Frontend: netip.MustParseAddrPort("40.1.1.1:80"),
		Affinity: Duration(90 * time.Second),
		Sources:  []netip.Prefix{netip.MustParsePrefix("20.1.1.0/24")},
		Backends: []Backend{{Address: netip.MustParseAddrPort("20.1.1.10:80")},
			{Address: netip.MustParseAddrPort("20.1.1.20:80"), Weight: new(uint16), State: "draining", DrainUntil: &until}},
		HealthCheck: &HealthCheck{Type: "http", Path: "/", Interval: Duration(time.Second)},
		Revision:    7,
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	status, err := client.Status(ctx)
	check(err)
	if status.PID != 7 || status.Interface.Address.String() != "20.1.1.1" {
		t.Errorf("status: got %+v", status)
	}
	stored, err := client.PutService(ctx, wanted)
	check(err)
	if stored.Mode != "dsr" {
		t.Errorf("the stored service has no default: %+v", stored)
	}
	services, err := client.Services(ctx)
	check(err)
	if !reflect.DeepEqual(services, []Service{wanted}) {
		t.Errorf("services: got %+v", services)
	}
	_, err = client.Service(ctx, 1)
	check(err)
	all, err := client.PutServices(ctx, []Service{wanted})
	check(err)
	if !reflect.DeepEqual(all, []Service{wanted}) {
		t.Errorf("all services: got %+v", all)
	}
	none, err := client.PutServices(ctx, nil)
	check(err)
	if none == nil || len(none) != 0 {
		t.Errorf("no services came as %#v", none)
	}
	connections, err := client.Connections(ctx, 0)
	check(err)
	if len(connections) != 2 || connections[0].TxBytes != nil || *connections[1].TxBytes != 5 {
		t.Errorf("connections: got %+v", connections)
	}
	_, err = client.Connections(ctx, 1)
	check(err)
	counters, err := client.Counters(ctx)
	check(err)
	if counters.Drops["no_backend"] != 3 {
		t.Errorf("counters: got %+v", counters)
	}
	neighbours, err := client.Neighbours(ctx)
	check(err)
	if neighbours == nil || len(neighbours) != 0 {
		t.Errorf("an empty list came as %#v", neighbours)
	}
	refreshed, err := client.RefreshNeighbour(ctx, netip.MustParseAddr("20.1.1.10"))
	check(err)
	if refreshed.MAC != "02:00:00:00:00:01" {
		t.Errorf("neighbour: got %+v", refreshed)
	}
	check(client.SetMode(ctx, ModeUpdate{Mode: "snat", ServiceID: 4}))
	check(client.DeleteService(ctx, 1))
	own, err := client.Diff(ctx)
	check(err)
	other, err := client.DiffWith(ctx, []Service{wanted})
	check(err)
	if !own.Same || own.Desired != "state" || other.Same || other.Services[0].Change != "missing" {
		t.Errorf("diffs: got %+v and %+v", own, other)
	}
	_, err = client.DiffWith(ctx, nil)
	check(err)
	check(client.Unload(ctx))
	want := []string{
		"status", "put 1 40.1.1.1:80 [20.1.1.10:80 20.1.1.20:80@0(draining)]", "services", "service 1",
		"put all 1", "put all 0", "connections 0",
		"connections 1", "counters", "neighbours", "refresh 20.1.1.10", "mode snat 4", "delete 1",
		"diff", "diff with 1", "diff with 0", "unload",
	}
	if !reflect.DeepEqual(agent.asked, want) {
		t.Errorf("the agent was asked\n%q, want\n%q", agent.asked, want)
	}
}

func TestErrorsKeepTheirKindOnTheWay(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		is   error
		want Error
	}{
		{"a refusal keeps its field", &Error{Field: "backends[1]", Message: "is there twice"}, nil,
			Error{Field: "backends[1]", Message: "is there twice", Code: 422}},
		{"not found is ErrNotFound", &Error{Field: "id", Message: "no such", Code: 404}, ErrNotFound,
			Error{Field: "id", Message: "no such", Code: 404}},
		{"a conflict is ErrConflict", fmt.Errorf("put: %w", &Error{Field: "frontend", Message: "taken", Code: 409}), ErrConflict,
			Error{Field: "frontend", Message: "taken", Code: 409}},
		{"any other error is the agent's failure", errors.New("map is full"), nil,
			Error{Message: "map is full", Code: 500}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := serve(t, &fakeAgent{err: c.err})
			err := client.SetMode(t.Context(), ModeUpdate{Mode: "dsr"})
			var got *Error
			if !errors.As(err, &got) || *got != c.want {
				t.Fatalf("got %#v, want %#v", err, c.want)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v is not %v", err, c.is)
			}
		})
	}
}

func TestHandlerRefuses(t *testing.T) {
	const service = `{"frontend":"40.1.1.1:80","backends":["20.1.1.10:80"]`
	for _, c := range []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"an unknown path", "GET", "/v1/nothing", "", 404, `no such path: /v1/nothing`},
		{"a method that the path does not have", "POST", "/v1/status", "", 405, `only GET`},
		{"an id that is no number", "GET", "/v1/services/one", "", 400, `"field":"id"`},
		{"id zero", "GET", "/v1/services/0", "", 400, `"field":"id"`},
		{"an id above 2^31", "GET", "/v1/services/2147483649", "", 400, `"field":"id"`},
		{"a service that is not there", "GET", "/v1/services/9", "", 404, `"field":"id"`},
		{"an empty body", "PUT", "/v1/services/1", "", 400, "ends too early"},
		{"a body that is cut short", "PUT", "/v1/services/1", service, 400, "ends too early"},
		{"a list for an object", "PUT", "/v1/services/1", `[1]`, 400, "want one JSON object"},
		{"binary", "PUT", "/v1/services/1", "\x00\x01\x02", 400, "not the JSON"},
		{"an unknown field", "PUT", "/v1/services/1", service + `,"wheight":3}`, 400, `"field":"wheight"`},
		{"a field given twice", "PUT", "/v1/services/1", service + `,"mode":"dsr","mode":"snat"}`, 400, `"field":"mode","error":"given twice"`},
		{"something after the object", "PUT", "/v1/services/1", service + `} {}`, 400, "more follows"},
		{"an address that does not parse", "PUT", "/v1/services/1", `{"frontend":"40.1.1:80"}`, 400, `"field":"frontend"`},
		{"an address that is a number", "PUT", "/v1/services/1", `{"frontend":7}`, 400, `"field":"frontend"`},
		{"a backend that does not parse", "PUT", "/v1/services/1", `{"backends":["20.1.1.10:80","x"]}`, 400, `"field":"backends[1]"`},
		{"backends that are no list", "PUT", "/v1/services/1", `{"backends":"20.1.1.10:80"}`, 400, `"field":"backends"`},
		{"null", "PUT", "/v1/services/1", `{"mode":null}`, 400, `"field":"mode"`},
		{"a table size that is negative", "PUT", "/v1/services/1", service + `,"tableSize":-1}`, 400, `"field":"tableSize"`},
		{"a table size that is too large for its type", "PUT", "/v1/services/1", service + `,"tableSize":4294967296}`, 400, `"field":"tableSize"`},
		{"a backend with an unknown field", "PUT", "/v1/services/1", `{"backends":["20.1.1.10:80",{"adress":"20.1.1.20:80"}]}`, 400, `"field":"backends[1].adress","error":"unknown field"`},
		{"a backend's field given twice", "PUT", "/v1/services/1", `{"backends":[{"weight":1,"weight":2}]}`, 400, `"field":"backends[0].weight","error":"given twice"`},
		{"a weight that is negative", "PUT", "/v1/services/1", `{"backends":[{"weight":-1}]}`, 400, `"field":"backends[0].weight"`},
		{"a weight that is a text", "PUT", "/v1/services/1", `{"backends":[{"weight":"3"}]}`, 400, `"field":"backends[0].weight","error":"want uint16`},
		{"a weight of null", "PUT", "/v1/services/1", `{"backends":[{"weight":null}]}`, 400, `"field":"backends[0].weight"`},
		{"a backend that is a number", "PUT", "/v1/services/1", `{"backends":[7]}`, 400, `"field":"backends[0]","error":"want an object`},
		{"a backend that is a list", "PUT", "/v1/services/1", `{"backends":[[]]}`, 400, `"field":"backends[0]"`},
		{"a deadline that is no time", "PUT", "/v1/services/1", `{"backends":[{"drainUntil":"tomorrow"}]}`, 400, `"field":"backends[0].drainUntil"`},
		{"a source that is no prefix", "PUT", "/v1/services/1", `{"sources":["20.1.1.0/24","20.1.1.1"]}`, 400, `"field":"sources[1]"`},
		{"an affinity in seconds", "PUT", "/v1/services/1", `{"affinity":90}`, 400, `"field":"affinity","error":"want a string`},
		{"an affinity that is no duration", "PUT", "/v1/services/1", `{"affinity":"long"}`, 400, `"field":"affinity"`},
		{"an MSS that is too large for its type", "PUT", "/v1/services/1", `{"mss":70000}`, 400, `"field":"mss"`},
		{"a health check with an unknown field", "PUT", "/v1/services/1", `{"healthCheck":{"type":"tcp","every":"1s"}}`, 400, `"field":"healthCheck.every"`},
		{"a health check that is a text", "PUT", "/v1/services/1", `{"healthCheck":"tcp"}`, 400, `"field":"healthCheck","error":"want an object`},
		{"a revision that is a text", "PUT", "/v1/services/1", `{"revision":"7"}`, 400, `"field":"revision"`},
		{"an object for all services", "PUT", "/v1/services", `{"services":[]}`, 400, `"field":"services","error":"want a list`},
		{"all services, one with a fault", "PUT", "/v1/services", `[{"id":1},{"id":2,"backends":[{"weight":-1}]}]`, 400, `"field":"services[1].backends[0].weight"`},
		{"all services, one of them null", "PUT", "/v1/services", `[{"id":1},null]`, 400, `"field":"services[1]"`},
		{"something after all services", "PUT", "/v1/services", `[] []`, 400, "more follows"},
		{"another id in the body", "PUT", "/v1/services/1", `{"id":2}`, 400, `"field":"id"`},
		{"a body that is too large", "PUT", "/v1/services/1", `{"mode":"` + strings.Repeat("x", maxBody) + `"}`, 413, "larger than"},
		{"an address in the path that does not parse", "PUT", "/v1/neighbours/20.1.1", "", 400, `"field":"address"`},
		{"a body where none belongs", "POST", "/v1/unload", "{}", 400, "takes no body"},
		{"a body of what is deleted", "DELETE", "/v1/services/1", `{"revision": 3}`, 400, "takes no body"},
	} {
		t.Run(c.name, func(t *testing.T) {
			agent := &fakeAgent{}
			answer := httptest.NewRecorder()
			Handler(agent).ServeHTTP(answer, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
			if answer.Code != c.code || !strings.Contains(answer.Body.String(), c.want) {
				t.Errorf("got %d %s, want %d with %s", answer.Code, answer.Body, c.code, c.want)
			}
			if len(agent.asked) != 0 {
				t.Errorf("the agent was asked %q", agent.asked)
			}
		})
	}
}

func TestClientSaysWhenNobodyListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.sock")
	_, err := NewUnixClient(path).Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "lbagent serve") {
		t.Errorf("got %v, want the socket's path and what to do", err)
	}
}

func TestClientReadsAnswersThatAreNotOurs(t *testing.T) {
	client := NewClient(func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Read(make([]byte, 4096))
			_, _ = io.WriteString(theirs, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops")
			_ = theirs.Close()
		}()
		return ours, nil
	})
	_, err := client.Status(t.Context())
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Code != 502 || !strings.Contains(refusal.Message, "oops") {
		t.Errorf("got %#v", err)
	}
}

// Old clients and the lab's scripts write backends as texts.
func TestBackendsMayBeTextsOrObjects(t *testing.T) {
	three := uint16(3)
	want := []Backend{
		{Address: netip.MustParseAddrPort("20.1.1.10:80")},
		{Address: netip.MustParseAddrPort("20.1.1.20:80"), Weight: &three, State: "draining"},
		{Address: netip.MustParseAddrPort("[fd00::10]:80")},
	}
	const body = `["20.1.1.10:80",{"address":"20.1.1.20:80","weight":3,"state":"draining"},"[fd00::10]:80"]`
	var s Service
	if err := Decode([]byte(`{"backends":`+body+`}`), &s); err != nil || !reflect.DeepEqual(s.Backends, want) {
		t.Errorf("a request: got %v, %v", s.Backends, err)
	}
	var list []Backend // as clients read answers
	if err := json.Unmarshal([]byte(body), &list); err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("an answer: got %v, %v", list, err)
	}
	text, err := json.Marshal(want[:2])
	if err != nil || string(text) != `[{"address":"20.1.1.10:80"},{"address":"20.1.1.20:80","weight":3,"state":"draining"}]` {
		t.Errorf("written: %s, %v", text, err)
	}
}

func TestBackendIsReadAsItIsWritten(t *testing.T) {
	for _, text := range []string{"20.1.1.10:80", "20.1.1.10:80@0", "20.1.1.10:80@1000", "[fd00::10]:80@7", "20.1.1.10:0"} {
		b, err := ParseBackend(text)
		if err != nil || b.String() != text {
			t.Errorf("%q was read as %q, %v", text, b, err)
		}
	}
	for _, text := range []string{"", "20.1.1.10", "20.1.1.10:80@", "20.1.1.10:80@-1", "20.1.1.10:80@1001", "20.1.1.10:80@1@2", "@1"} {
		if b, err := ParseBackend(text); err == nil {
			t.Errorf("%q was read as %q", text, b)
		}
	}
}

// FuzzDecode holds what is read against encoding/json: it is no more, and the same.
func FuzzDecode(f *testing.F) {
	f.Add(`{"frontend":"40.1.1.1:80","backends":["20.1.1.10:80",{"address":"20.1.1.20:80","weight":3}],"mode":"dsr","tableSize":251}`)
	f.Add(`{"affinity":"1m","sources":["20.0.0.0/8"],"healthCheck":{"type":"http","interval":"1s","rise":2},"revision":7}`)
	f.Add(`{"id":1,"id":1}`)
	f.Add(`{"backends":[[]]}`)
	f.Add(`{"backends":[{"drainUntil":"2030-01-02T03:04:05Z"}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		var got, want Service
		if err := Decode([]byte(body), &got); err != nil {
			var refusal *Error
			if !errors.As(err, &refusal) || refusal.Code != 400 {
				t.Errorf("%q got %v", body, err)
			}
			return
		}
		if err := json.Unmarshal([]byte(body), &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %+v, %v; got %+v", body, want, err, got)
		}
	})
}

func FuzzServiceBody(f *testing.F) {
	f.Add(`{"frontend":"40.1.1.1:80","backends":["20.1.1.10:80"],"mode":"dsr","tableSize":251}`)
	f.Add(`{"id":1,"id":1}`)
	f.Add(`{"backends":[[]]}`)
	f.Add(`[{"id":1},{"backends":[{}]}]`)
	f.Fuzz(func(t *testing.T, body string) {
		all := httptest.NewRecorder()
		Handler(&fakeAgent{}).ServeHTTP(all, httptest.NewRequest("PUT", "/v1/services", strings.NewReader(body)))
		if all.Code != 200 && all.Code != 400 && all.Code != 413 {
			t.Errorf("%q got %d %s", body, all.Code, all.Body)
		}
		answer := httptest.NewRecorder()
		Handler(&fakeAgent{}).ServeHTTP(answer, httptest.NewRequest("PUT", "/v1/services/1", strings.NewReader(body)))
		if answer.Code != 200 && answer.Code != 400 && answer.Code != 413 {
			t.Errorf("%q got %d %s", body, answer.Code, answer.Body)
		}
	})
}

func TestPathsThatAreNotCleanAreNoRedirects(t *testing.T) {
	for _, target := range []string{"/v1//services", "/v1/./services", "/v1/../v1/services", "//v1/services", "/v1/services/"} {
		w := httptest.NewRecorder()
		Handler(&fakeAgent{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://lbagent"+target, nil))
		var refusal Error
		if err := json.Unmarshal(w.Body.Bytes(), &refusal); w.Code != http.StatusNotFound || err != nil || refusal.Message == "" {
			t.Errorf("%s: got %d %s", target, w.Code, w.Body)
		}
	}
}

func TestServiceWithoutBackendsIsTheAgentsToJudge(t *testing.T) {
	agent := &fakeAgent{}
	if _, err := serve(t, agent).PutService(t.Context(), Service{ID: 1, Frontend: netip.MustParseAddrPort("40.1.1.1:80")}); err != nil {
		t.Errorf("refused before the agent saw it: %v", err)
	}
}

// deadlines notes until when answers may be written.
type deadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

func TestAnswersDoNotWaitForEverForTheirReaders(t *testing.T) {
	for name, request := range map[string]*http.Request{
		"an answer":              httptest.NewRequest(http.MethodGet, "/v1/connections", nil),
		"an answer without body": httptest.NewRequest(http.MethodDelete, "/v1/services/1", nil),
		"a refusal":              httptest.NewRequest(http.MethodGet, "/v1/nothing", nil),
	} {
		t.Run(name, func(t *testing.T) {
			w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
			before := time.Now()
			Handler(&fakeAgent{}).ServeHTTP(w, request)
			if len(w.set) == 0 || w.set[0].Before(before.Add(answerPatience)) {
				t.Errorf("deadlines %v", w.set)
			}
		})
	}
}
