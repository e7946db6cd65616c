package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxServiceID is the largest number that a service can have: 2^31.
const MaxServiceID = 1 << 31

// Errors that a caller may handle; an *Error matches them by its code.
var (
	// ErrNotFound: no service or neighbour of that name (404).
	ErrNotFound = errors.New("not found")
	// ErrConflict: the request clashes with what is there: a frontend that
	// another service has, or a revision that is not the service's any more (409).
	ErrConflict = errors.New("conflict")
)

// Is makes errors.Is(err, ErrNotFound) and errors.Is(err, ErrConflict) work on both ends.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Code == http.StatusNotFound ||
		target == ErrConflict && e.Code == http.StatusConflict
}

// Agent is what the handler serves. Each method is one
// request of Client and is documented there. Methods are called concurrently.
// An *Error is answered with its code and field, any other error as 500.
type Agent interface {
	Status(ctx context.Context) (Status, error)
	Services(ctx context.Context) ([]Service, error)
	Service(ctx context.Context, id uint32) (Service, error)
	PutService(ctx context.Context, s Service) (Service, error)
	PutServices(ctx context.Context, all []Service) ([]Service, error)
	DeleteService(ctx context.Context, id uint32) error
	Connections(ctx context.Context, id uint32) ([]Connection, error)
	Counters(ctx context.Context) (Counters, error)
	Neighbours(ctx context.Context) ([]Neighbour, error)
	RefreshNeighbour(ctx context.Context, address netip.Addr) (Neighbour, error)
	SetMode(ctx context.Context, update ModeUpdate) error
	// Diff and DiffWith are documented at Client. All is not nil.
	Diff(ctx context.Context) (Diff, error)
	DiffWith(ctx context.Context, all []Service) (Diff, error)
	Unload(ctx context.Context) error
	Observer
}

// answerer does one request and returns what is to be encoded, nil for 204 No Content.
type answerer func(w http.ResponseWriter, r *http.Request) (any, error)

// Handler serves a under /v1. Bodies are strict JSON of at most 4 MiB, that of all services of 64 MiB.
// An answer that its client does not take ends after answerPatience.
func Handler(a Agent) http.Handler {
	mux := http.NewServeMux()
	route(mux, "/v1/status", map[string]answerer{
		http.MethodGet: func(_ http.ResponseWriter, r *http.Request) (any, error) { return a.Status(r.Context()) },
	})
	route(mux, "/v1/services", map[string]answerer{
		http.MethodGet: func(_ http.ResponseWriter, r *http.Request) (any, error) {
			return list(a.Services(r.Context()))
		},
		http.MethodPut: func(w http.ResponseWriter, r *http.Request) (any, error) {
			var all []Service
			if err := decodeBody(w, r, maxServicesBody, &all); err != nil {
				return nil, err
			}
			return list(a.PutServices(r.Context(), all))
		},
	})
	route(mux, "/v1/services/{id}", map[string]answerer{
		http.MethodGet: withID(func(_ http.ResponseWriter, r *http.Request, id uint32) (any, error) {
			return a.Service(r.Context(), id)
		}),
		http.MethodPut: withID(func(w http.ResponseWriter, r *http.Request, id uint32) (any, error) {
			return putService(a, w, r, id)
		}),
		http.MethodDelete: withID(func(w http.ResponseWriter, r *http.Request, id uint32) (any, error) {
			if err := noBody(w, r); err != nil {
				return nil, err
			}
			return nil, a.DeleteService(r.Context(), id)
		}),
	})
	route(mux, "/v1/services/{id}/connections", map[string]answerer{
		http.MethodGet: withID(func(_ http.ResponseWriter, r *http.Request, id uint32) (any, error) {
			return list(a.Connections(r.Context(), id))
		}),
	})
	route(mux, "/v1/diff", map[string]answerer{
		http.MethodGet: func(_ http.ResponseWriter, r *http.Request) (any, error) { return a.Diff(r.Context()) },
		http.MethodPost: func(w http.ResponseWriter, r *http.Request) (any, error) {
			all := []Service{}
			if err := decodeBody(w, r, maxServicesBody, &all); err != nil {
				return nil, err
			}
			return a.DiffWith(r.Context(), all)
		},
	})
	route(mux, "/v1/connections", map[string]answerer{
		http.MethodGet: func(_ http.ResponseWriter, r *http.Request) (any, error) {
			return list(a.Connections(r.Context(), 0))
		},
	})
	route(mux, "/v1/counters", map[string]answerer{
		http.MethodGet: func(_ http.ResponseWriter, r *http.Request) (any, error) { return a.Counters(r.Context()) },
	})
	route(mux, "/v1/neighbours", map[string]answerer{
		http.MethodGet: func(_ http.ResponseWriter, r *http.Request) (any, error) {
			return list(a.Neighbours(r.Context()))
		},
	})
	route(mux, "/v1/neighbours/{address}", map[string]answerer{
		http.MethodPut: func(w http.ResponseWriter, r *http.Request) (any, error) { return refreshNeighbour(a, w, r) },
	})
	route(mux, "/v1/mode", map[string]answerer{
		http.MethodPut: func(w http.ResponseWriter, r *http.Request) (any, error) { return nil, setMode(a, w, r) },
	})
	route(mux, "/v1/unload", map[string]answerer{
		http.MethodPost: func(w http.ResponseWriter, r *http.Request) (any, error) {
			if err := noBody(w, r); err != nil {
				return nil, err
			}
			return nil, a.Unload(r.Context())
		},
	})
	observe(mux, a)
	mux.HandleFunc("/", noPath)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The mux would answer /v1//services with a redirect, which is no *Error.
		if clean := path.Clean(r.URL.Path); clean != r.URL.Path && clean+"/" != r.URL.Path {
			noPath(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func noPath(w http.ResponseWriter, r *http.Request) {
	writeError(w, &Error{Message: "no such path: " + r.URL.Path, Code: http.StatusNotFound})
}

// route serves one path; a method that is not listed gets 405 and the list, and a query whose name is not
// among these 400.
func route(mux *http.ServeMux, path string, methods map[string]answerer, queries ...string) {
	allowed := make([]string, 0, len(methods))
	for m := range methods {
		allowed = append(allowed, m)
	}
	slices.Sort(allowed)
	allow := strings.Join(allowed, ", ")
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		answer, ok := methods[r.Method]
		if !ok {
			w.Header().Set("Allow", allow)
			writeError(w, &Error{
				Message: fmt.Sprintf("%s is not possible on %s, only %s", r.Method, r.URL.Path, allow),
				Code:    http.StatusMethodNotAllowed,
			})
			return
		}
		if err := knownQuery(r.URL.Query(), queries...); err != nil {
			writeError(w, err)
			return
		}
		v, err := answer(w, r)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, v)
	})
}

// list answers an empty list as [], never as null.
func list[T any](values []T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	if values == nil {
		values = []T{}
	}
	return values, nil
}

// withID reads the service id that stands in the path.
func withID(do func(http.ResponseWriter, *http.Request, uint32) (any, error)) answerer {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		text := r.PathValue("id")
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil || id == 0 || id > MaxServiceID {
			return nil, &Error{
				Field:   "id",
				Message: fmt.Sprintf("%q is not a service id (1 to %d)", text, MaxServiceID),
				Code:    http.StatusBadRequest,
			}
		}
		return do(w, r, uint32(id))
	}
}

func putService(a Agent, w http.ResponseWriter, r *http.Request, id uint32) (any, error) {
	var s Service
	if err := decodeBody(w, r, maxBody, &s); err != nil {
		return nil, err
	}
	if s.ID != 0 && s.ID != id {
		return nil, &Error{
			Field:   "id",
			Message: fmt.Sprintf("is %d in the body and %d in the path", s.ID, id),
			Code:    http.StatusBadRequest,
		}
	}
	s.ID = id
	return a.PutService(r.Context(), s)
}

func refreshNeighbour(a Agent, w http.ResponseWriter, r *http.Request) (any, error) {
	if err := noBody(w, r); err != nil {
		return nil, err
	}
	text := r.PathValue("address")
	address, err := netip.ParseAddr(text)
	if err != nil {
		return nil, &Error{Field: "address", Message: fmt.Sprintf("%q is no address", text), Code: http.StatusBadRequest}
	}
	return a.RefreshNeighbour(r.Context(), address)
}

func setMode(a Agent, w http.ResponseWriter, r *http.Request) error {
	var update ModeUpdate
	if err := decodeBody(w, r, maxBody, &update); err != nil {
		return err
	}
	return a.SetMode(r.Context(), update)
}

func writeError(w http.ResponseWriter, err error) {
	var refusal *Error
	if !errors.As(err, &refusal) {
		writeJSON(w, http.StatusInternalServerError, &Error{Message: err.Error()})
		return
	}
	code := refusal.Code
	if code == 0 {
		code = http.StatusUnprocessableEntity
	}
	writeJSON(w, code, refusal)
}

// answerPatience is how long an answer may take to get into its client's socket: one that does not
// read must not hold tens of MiB of it for ever.
const answerPatience = 30 * time.Second

func writeJSON(w http.ResponseWriter, code int, v any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerPatience))
	if v == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// An error here means that the client has gone; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(v)
}
