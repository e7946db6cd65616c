package api

import (
	"context"
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

// serve runs an agent on a socket of its own and returns a client of it.
func serve(t *testing.T, agent Backend) *Client {
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
	wanted := Service{
		ID:       1,
		Frontend: netip.MustParseAddrPort("40.1.1.1:80"),
		Backends: []netip.AddrPort{netip.MustParseAddrPort("20.1.1.10:80"), netip.MustParseAddrPort("20.1.1.20:80")},
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
	check(client.Unload(ctx))
	want := []string{
		"status", "put 1 40.1.1.1:80 [20.1.1.10:80 20.1.1.20:80]", "services", "service 1", "connections 0",
		"connections 1", "counters", "neighbours", "refresh 20.1.1.10", "mode snat 4", "delete 1", "unload",
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
		{"another id in the body", "PUT", "/v1/services/1", `{"id":2}`, 400, `"field":"id"`},
		{"a body that is too large", "PUT", "/v1/services/1", `{"mode":"` + strings.Repeat("x", maxBody) + `"}`, 413, "larger than"},
		{"an address in the path that does not parse", "PUT", "/v1/neighbours/20.1.1", "", 400, `"field":"address"`},
		{"a body where none belongs", "POST", "/v1/unload", "{}", 400, "takes no body"},
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

func FuzzServiceBody(f *testing.F) {
	f.Add(`{"frontend":"40.1.1.1:80","backends":["20.1.1.10:80"],"mode":"dsr","tableSize":251}`)
	f.Add(`{"id":1,"id":1}`)
	f.Add(`{"backends":[[]]}`)
	f.Fuzz(func(t *testing.T, body string) {
		answer := httptest.NewRecorder()
		Handler(&fakeAgent{}).ServeHTTP(answer, httptest.NewRequest("PUT", "/v1/services/1", strings.NewReader(body)))
		if answer.Code != 200 && answer.Code != 400 && answer.Code != 413 {
			t.Errorf("%q got %d %s", body, answer.Code, answer.Body)
		}
	})
}
