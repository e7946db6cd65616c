package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// EventKind is what happened to a flow.
type EventKind string

// The kinds of events.
const (
	// FlowNew: its first packet was forwarded.
	FlowNew EventKind = "new"
	// FlowClosed: a FIN of each side that passes the balancer, or a reset.
	FlowClosed EventKind = "closed"
	// FlowDropped: a packet was dropped, for the event's reason.
	FlowDropped EventKind = "dropped"
)

// FlowEvent is something that the data path saw of a flow.
type FlowEvent struct {
	Time     time.Time `json:"time"`
	Kind     EventKind `json:"kind"`
	Protocol string    `json:"protocol"`
	// Source and Dest are client and VIP; of a dropped reply backend and balancer.
	Source netip.AddrPort `json:"source"`
	Dest   netip.AddrPort `json:"dest"`
	// Backend is the zero value where the packet was dropped before it had one.
	Backend   netip.AddrPort `json:"backend,omitzero"`
	ServiceID uint32         `json:"serviceId,omitempty"`
	// Mode is "" where the packet was dropped before it was known.
	Mode string `json:"mode,omitempty"`
	// Reason is of a drop: a name of Counters.Drops.
	Reason string `json:"reason,omitempty"`
}

// EventLoss counts, since the listener came, the events that it does not get.
type EventLoss struct {
	// Suppressed were beyond the rate, Lost found the data path's ring full.
	Suppressed uint64 `json:"suppressed"`
	Lost       uint64 `json:"lost"`
	// Missed are those for which this listener was too slow.
	Missed uint64 `json:"missed"`
}

// EventMessage is one line of GET /v1/events: an event, or what was lost so far,
// which comes first of all and whenever it grows. The last line is an error where the events ended by one;
// Client.Events returns it.
type EventMessage struct {
	Event *FlowEvent `json:"event,omitempty"`
	Loss  *EventLoss `json:"loss,omitempty"`
	Error *Error     `json:"error,omitempty"`
}

// EventQuery says which events are wanted.
type EventQuery struct {
	// ServiceID 0 means every service, no Kinds all.
	ServiceID uint32
	Kinds     []EventKind
	// Rate is how many events a CPU may send in a second, of all listeners the
	// highest; 0 means DefaultEventRate.
	Rate uint32
}

// DefaultEventRate is the rate of listeners that name none.
const DefaultEventRate = 1000

// ParseEventKinds reads names that commas separate; "" is none.
func ParseEventKinds(text string) ([]EventKind, error) {
	var kinds []EventKind
	for _, name := range strings.Split(text, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if !slices.Contains([]EventKind{FlowNew, FlowClosed, FlowDropped}, EventKind(name)) {
			return nil, fmt.Errorf("%q is no kind of event: new, closed or dropped", name)
		}
		kinds = append(kinds, EventKind(name))
	}
	return kinds, nil
}

func (q EventQuery) values() url.Values {
	v := make(url.Values)
	if q.ServiceID != 0 {
		v.Set("service", strconv.FormatUint(uint64(q.ServiceID), 10))
	}
	var names []string
	for _, k := range q.Kinds {
		names = append(names, string(k))
	}
	if len(names) > 0 {
		v.Set("kind", strings.Join(names, ","))
	}
	if q.Rate != 0 {
		v.Set("rate", strconv.FormatUint(uint64(q.Rate), 10))
	}
	return v
}

func parseEventQuery(v url.Values) (q EventQuery, err error) {
	if err := knownQuery(v, "service", "kind", "rate"); err != nil {
		return q, err
	}
	if q.ServiceID, err = queryNumber(v, "service", MaxServiceID); err != nil {
		return q, err
	}
	if q.Rate, err = queryNumber(v, "rate", 1<<20); err != nil {
		return q, err
	}
	if q.Kinds, err = ParseEventKinds(v.Get("kind")); err != nil {
		return q, &Error{Field: "kind", Message: err.Error(), Code: http.StatusBadRequest}
	}
	return q, nil
}

// knownQuery refuses what would be ignored in silence.
func knownQuery(v url.Values, names ...string) error {
	for name, values := range v {
		if !slices.Contains(names, name) {
			return &Error{Field: name, Message: "unknown parameter", Code: http.StatusBadRequest}
		}
		if len(values) > 1 {
			return &Error{Field: name, Message: "given twice", Code: http.StatusBadRequest}
		}
	}
	return nil
}

// queryNumber reads a number from 1 on; 0 when it is left out.
func queryNumber(v url.Values, name string, most uint64) (uint32, error) {
	if !v.Has(name) {
		return 0, nil
	}
	n, err := strconv.ParseUint(v.Get(name), 10, 32)
	if err != nil || n == 0 || n > most {
		return 0, &Error{Field: name, Message: fmt.Sprintf("%q: wanted is 1 to %d", v.Get(name), most), Code: http.StatusBadRequest}
	}
	return uint32(n), nil
}

// serveEvents streams messages, one JSON value a line, until the client goes or the agent ends.
func serveEvents(a Agent, w http.ResponseWriter, r *http.Request) {
	q, err := parseEventQuery(r.URL.Query())
	if err != nil {
		writeError(w, err)
		return
	}
	control := http.NewResponseController(w)
	// The server's read timeout would end the stream: it is told that the client went.
	_ = control.SetReadDeadline(time.Time{})
	begun := false
	encoder := json.NewEncoder(w)
	err = a.Events(r.Context(), q, func(m EventMessage) error {
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			begun = true
		}
		// One that does not read is no listener: others would wait for the agent to end.
		_ = control.SetWriteDeadline(time.Now().Add(sendPatience))
		if err := encoder.Encode(m); err != nil {
			return err
		}
		return control.Flush()
	})
	if err != nil && !begun {
		writeError(w, err)
		return
	}
	if err != nil && r.Context().Err() == nil { // nobody reads it where it was the client that went
		_ = encoder.Encode(EventMessage{Error: &Error{Message: err.Error()}})
	}
}

// sendPatience is how long one message may take to get into a listener's socket.
const sendPatience = 10 * time.Second

// Events calls send with each message that fits the query, until ctx ends, send
// returns an error, which is returned, or the agent ends.
func (c *Client) Events(ctx context.Context, q EventQuery, send func(EventMessage) error) error {
	path := "/v1/events"
	if v := q.values(); len(v) > 0 {
		path += "?" + v.Encode()
	}
	response, err := c.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return readError(response.StatusCode, response.Body)
	}
	messages := json.NewDecoder(response.Body)
	for {
		var m EventMessage
		err := messages.Decode(&m)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil // the agent ended
		case err != nil:
			return fmt.Errorf("read the events of %s: %w", c.where, err)
		}
		if m.Error != nil {
			return m.Error
		}
		if err := send(m); err != nil {
			return err
		}
	}
}
