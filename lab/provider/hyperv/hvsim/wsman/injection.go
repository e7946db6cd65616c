package wsman

import (
	"net/http"
	"time"
)

// FaultKind is a way to go wrong.
type FaultKind int

// The ways to go wrong.
const (
	// Reset cuts the connection before anything is done.
	Reset FaultKind = iota + 1
	// ResetAfter does what was asked and cuts the connection before the answer.
	ResetAfter
	// ServerError answers 500 without a fault in it.
	ServerError
	// Slow waits Delay before the answer.
	Slow
	// Truncated sends half of the answer and cuts the connection.
	Truncated
	// AuthLost forgets that the connection is logged on, and refuses the credentials.
	AuthLost
	// Quota answers with a quota's fault.
	Quota
	// ShellLost forgets all shells first, as a restart of the service does.
	ShellLost
)

// Fault is what goes wrong with one request.
type Fault struct {
	Kind  FaultKind
	Delay time.Duration
}

// faultFor asks for what goes wrong with a request.
func (s *Server) faultFor(number int, q *incoming) *Fault {
	if s.Faults == nil {
		return nil
	}
	action := ""
	if q != nil && q.err == nil {
		action = q.Header.Action
	}
	return s.Faults(number, action)
}

// before does what goes wrong ahead of the request; true when that was the answer.
func (s *Server) before(w http.ResponseWriter, r *http.Request, c *connection, q *incoming, f *Fault) bool {
	switch f.Kind {
	case Reset:
		cut(w, c, nil)
	case ServerError:
		w.WriteHeader(http.StatusInternalServerError)
	case AuthLost:
		c.forget()
		refuse(w, c, "")
	case Quota:
		if q == nil {
			return false // only operations meet quotas
		}
		s.write(w, r, c, http.StatusInternalServerError, answerFault(tooManyShells(s.limits.ShellsPerUser), ""))
	case ShellLost:
		s.shells.clear()
		return false
	case Slow:
		return !s.pause(r, f.Delay)
	default:
		return false
	}
	return true
}

// after does what goes wrong with the answer; true when that was it.
func (s *Server) after(w http.ResponseWriter, f *Fault, c *connection, status int, answer []byte) bool {
	switch f.Kind {
	case ResetAfter:
		cut(w, c, nil)
	case Truncated:
		cut(w, c, truncated(status, answer))
	default:
		return false
	}
	return true
}
