package api

import (
	"context"
	"net/http"
)

// Observer is the part of Agent that looks at the data path: each method is one
// request of Client and is documented there.
type Observer interface {
	Events(ctx context.Context, q EventQuery, send func(EventMessage) error) error
	Trace(ctx context.Context, p TracePacket) (Trace, error)
	Health(ctx context.Context) ([]BackendHealth, error)
	Capabilities(ctx context.Context) (Capabilities, error)
}

func observe(mux *http.ServeMux, a Agent) {
	mux.HandleFunc("/v1/events", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			writeError(w, &Error{Message: r.Method + " is not possible on /v1/events, only GET", Code: http.StatusMethodNotAllowed})
			return
		}
		serveEvents(a, w, r)
	})
	route(mux, "/v1/trace", map[string]answerer{
		http.MethodGet: func(_ http.ResponseWriter, r *http.Request) (any, error) {
			p, err := parseTracePacket(r.URL.Query())
			if err != nil {
				return nil, err
			}
			return a.Trace(r.Context(), p)
		},
	}, "proto", "from", "to", "flags", "length", "mayFragment")
	route(mux, "/v1/health", map[string]answerer{
		http.MethodGet: func(_ http.ResponseWriter, r *http.Request) (any, error) { return list(a.Health(r.Context())) },
	})
	route(mux, "/v1/capabilities", map[string]answerer{
		http.MethodGet: func(_ http.ResponseWriter, r *http.Request) (any, error) { return a.Capabilities(r.Context()) },
	})
}
