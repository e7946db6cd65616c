package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// maxAnswer bounds what a client reads of one answer: a full conntrack table
// of 131,072 flows is about 50 MiB of JSON.
const maxAnswer = 256 << 20

// Client speaks to one agent. Its methods are those of Agent, and their
// errors are *Error where the agent refused. It is safe for concurrent use.
type Client struct {
	http *http.Client
	// where names the other end in errors.
	where string
}

var _ Agent = (*Client)(nil)

// answerLimit bounds a request when the caller's context does not: a stopped
// agent takes connections and answers none.
const answerLimit = 20 * time.Second

// NewClient returns a client that reaches the agent through dial, which is
// called for each request: an agent that was restarted meanwhile is found again.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{
		where: "the agent",
		http: &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dial(ctx)
			},
		}},
	}
}

// ErrAgentRunning: another agent serves on that socket.
var ErrAgentRunning = errors.New("another agent is running")

// ErrNoGroup: there is no group of that name.
var ErrNoGroup = errors.New("no such group")

// NewUnixClient returns a client of the agent that listens on path, a unix socket or on
// Windows a named pipe.
func NewUnixClient(path string) *Client {
	c := NewClient(func(ctx context.Context) (net.Conn, error) { return dialLocal(ctx, path) })
	c.where = "the agent at " + path
	return c
}

// Status says what the agent is attached to and how it started.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Services returns the desired services, ordered by id.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	return get[[]Service](ctx, c, "/v1/services")
}

// Service returns one desired service; ErrNotFound when there is none of that id.
func (c *Client) Service(ctx context.Context, id uint32) (Service, error) {
	return get[Service](ctx, c, servicePath(id))
}

// PutService creates or replaces the service s.ID and returns it with the
// defaults filled in. When it returns, the data path has it.
func (c *Client) PutService(ctx context.Context, s Service) (Service, error) {
	if s.Backends == nil {
		s.Backends = []Backend{} // null would be refused for being null
	}
	var stored Service
	err := c.do(ctx, http.MethodPut, servicePath(s.ID), s, &stored)
	return stored, err
}

// PutServices makes these the services: those that are not among them are removed. All
// are checked before anything is changed. It returns them with the defaults filled in, ordered by id.
func (c *Client) PutServices(ctx context.Context, all []Service) ([]Service, error) {
	if all == nil {
		all = []Service{}
	}
	var stored []Service
	err := c.do(ctx, http.MethodPut, "/v1/services", all, &stored)
	return stored, err
}

// DeleteService removes a service. Flows that conntrack knows are cut: without
// the service, packets to its VIP pass untouched.
func (c *Client) DeleteService(ctx context.Context, id uint32) error {
	return c.do(ctx, http.MethodDelete, servicePath(id), nil, nil)
}

// Connections lists the flows of one service, or of all when id is 0.
func (c *Client) Connections(ctx context.Context, id uint32) ([]Connection, error) {
	if id == 0 {
		return get[[]Connection](ctx, c, "/v1/connections")
	}
	return get[[]Connection](ctx, c, servicePath(id)+"/connections")
}

// Counters returns the totals of services, backends and drops.
func (c *Client) Counters(ctx context.Context) (Counters, error) {
	return get[Counters](ctx, c, "/v1/counters")
}

// Neighbours returns the next hop of each backend, ordered by address.
func (c *Client) Neighbours(ctx context.Context) ([]Neighbour, error) {
	return get[[]Neighbour](ctx, c, "/v1/neighbours")
}

// RefreshNeighbour resolves the next hop towards address anew and returns what was found.
func (c *Client) RefreshNeighbour(ctx context.Context, address netip.Addr) (Neighbour, error) {
	var n Neighbour
	err := c.do(ctx, http.MethodPut, "/v1/neighbours/"+url.PathEscape(address.String()), nil, &n)
	return n, err
}

// SetMode switches one service, or all and the default when update.ServiceID
// is 0. Established flows go on in the mode in which they began.
func (c *Client) SetMode(ctx context.Context, update ModeUpdate) error {
	return c.do(ctx, http.MethodPut, "/v1/mode", update, nil)
}

// Unload detaches the program and removes the pins; the agent ends.
func (c *Client) Unload(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/v1/unload", nil, nil)
}

func servicePath(id uint32) string {
	return "/v1/services/" + strconv.FormatUint(uint64(id), 10)
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var v T
	err := c.do(ctx, http.MethodGet, path, nil, &v)
	return v, err
}

// do sends body, nil for none, and reads the answer into out, nil for none.
func (c *Client) do(ctx context.Context, method, path string, body, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("no answer within %s", answerLimit))
	defer cancel()
	response, err := c.ask(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer := io.LimitReader(response.Body, maxAnswer)
	if response.StatusCode/100 != 2 {
		return readError(response.StatusCode, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(answer).Decode(out); err != nil {
		return fmt.Errorf("read the answer of %s to %s %s: %w", c.where, method, path, err)
	}
	return nil
}

// ask sends body, nil for none. The caller closes the answer's.
func (c *Client) ask(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode %s %s: %w", method, path, err)
		}
		reader = bytes.NewReader(encoded)
	}
	// The host is never resolved: dial leads to the agent whatever its name.
	request, err := http.NewRequestWithContext(ctx, method, "http://lbagent"+path, reader)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // its text repeats method and address
		}
		return nil, fmt.Errorf("ask %s (%s %s): %w; is `lbagent serve` running?", c.where, method, path, err)
	}
	return response, nil
}

// readError reads the body of a refusal. Whatever else stands there becomes the message.
func readError(code int, body io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(body, 64<<10))
	if err != nil {
		return fmt.Errorf("read the agent's refusal (%d %s): %w", code, http.StatusText(code), err)
	}
	refusal := &Error{}
	if json.Unmarshal(text, refusal) != nil || refusal.Message == "" {
		refusal = &Error{Message: fmt.Sprintf("%d %s: %q", code, http.StatusText(code), text)}
	}
	refusal.Code = code
	return refusal
}
