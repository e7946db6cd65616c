package powershell

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bodgit/ntlmssp"
)

const soapType = "application/soap+xml;charset=UTF-8"

// idleConnection is how long a connection is kept that nothing goes over;
// http.sys closes one after 120 s, and a request must not meet that.
const idleConnection = 45 * time.Second

// transport posts messages to the service. NTLM logs connections on, not
// requests (RFC 4559 section 6), so each request has one for itself: net/http's
// pool would put another's request between the legs of a logon.
type transport struct {
	e   Endpoint
	new func() *lane

	mu     sync.Mutex
	idle   []*lane
	closed bool
	// loggedOn: the machine has accepted the credentials at some time.
	loggedOn atomic.Bool
}

func newTransport(e Endpoint) (*transport, error) {
	t := &transport{e: e}
	dial := e.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: e.Timeout, KeepAlive: 15 * time.Second}).DialContext
	}
	base := &http.Transport{
		DialContext:           dial,
		MaxConnsPerHost:       1,
		IdleConnTimeout:       idleConnection,
		TLSHandshakeTimeout:   e.Timeout,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
	}
	if !e.Plain {
		c, err := e.tlsConfig()
		if err != nil {
			return nil, err
		}
		base.TLSClientConfig = c
	}
	t.new = func() *lane { return &lane{t: t, http: base.Clone()} }
	return t, nil
}

// exchangeError is a request without an answer.
type exchangeError struct {
	error
	// sent: the machine may have got the request.
	sent bool
}

func (e *exchangeError) Unwrap() error { return e.error }

// errRefused says that the machine answered 401.
var errRefused = errors.New("HTTP 401")

// post sends one message and returns the answer's status and body. The error
// is an *exchangeError, or errRefused.
func (t *transport) post(ctx context.Context, message []byte) (int, []byte, error) {
	l, err := t.take()
	if err != nil {
		return 0, nil, &exchangeError{err, false}
	}
	status, answer, err := l.post(ctx, message)
	if err != nil {
		l.http.CloseIdleConnections()
		return 0, nil, err
	}
	t.loggedOn.Store(true)
	t.give(l)
	return status, answer, nil
}

var errClosed = errors.New("the connection was closed")

func (t *transport) take() (*lane, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errClosed
	}
	if n := len(t.idle); n > 0 {
		l := t.idle[n-1]
		t.idle = t.idle[:n-1]
		return l, nil
	}
	return t.new(), nil
}

func (t *transport) give(l *lane) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		l.http.CloseIdleConnections()
		return
	}
	t.idle = append(t.idle, l)
}

func (t *transport) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, l := range t.idle {
		l.http.CloseIdleConnections()
	}
	t.idle = nil
}

// lane is one connection, made anew where it broke.
type lane struct {
	t    *transport
	http *http.Transport
	ntlm *ntlmssp.Client // nil: not logged on
	conn net.Conn        // the last request's
}

// post logs on where that is needed. A 401 where credentials were accepted
// before is tried once more on a connection that is logged on anew: the old one
// was another by now, and nothing was done.
func (l *lane) post(ctx context.Context, message []byte) (int, []byte, error) {
	for again := l.t.loggedOn.Load(); ; again = false {
		status, answer, err := l.logged(ctx, message)
		if err == nil && status == http.StatusUnauthorized {
			err = errRefused
		}
		if !errors.Is(err, errRefused) || !again {
			return status, answer, err
		}
		l.ntlm = nil
		l.http.CloseIdleConnections()
	}
}

func (l *lane) logged(ctx context.Context, message []byte) (int, []byte, error) {
	if l.t.e.Auth == NTLM && l.ntlm == nil {
		if err := l.logOn(ctx); err != nil {
			return 0, nil, err
		}
	}
	return l.exchange(ctx, message)
}

// exchange sends a message, sealed where there is no TLS, and opens the answer.
func (l *lane) exchange(ctx context.Context, message []byte) (int, []byte, error) {
	contentType := soapType
	if l.t.e.Plain {
		sealed, err := seal(l.ntlm.SecuritySession(), message)
		if err != nil {
			return 0, nil, &exchangeError{fmt.Errorf("seal: %w", err), false}
		}
		message, contentType = sealed, sealedType
	}
	r, err := l.roundTrip(ctx, message, contentType, "")
	if err != nil || !l.t.e.Plain || len(r.body) == 0 {
		return r.status, r.body, err
	}
	if !strings.HasPrefix(r.header.Get("Content-Type"), "multipart/encrypted") {
		if r.status == http.StatusOK {
			return 0, nil, &exchangeError{fmt.Errorf("%w: it is not sealed", errSealed), true}
		}
		return r.status, nil, nil
	}
	plain, err := open(l.ntlm.SecuritySession(), r.body)
	if err != nil {
		return 0, nil, &exchangeError{err, true}
	}
	return r.status, plain, nil
}

// errMoved says that a logon was refused whose legs went over two connections. The
// machine may close one between them, and net/http gives up one whose answer came
// before it had noted the request's end, as on a busy computer.
var errMoved = fmt.Errorf("%w: the connection was lost in the middle of the logon", errRefused)

// logonTries is how often a logon is begun that loses its connection.
const logonTries = 3

// logOn logs the connection on.
func (l *lane) logOn(ctx context.Context) error {
	for try := 1; ; try++ {
		err := l.logOnOnce(ctx)
		if !errors.Is(err, errMoved) || try == logonTries {
			return err
		}
	}
}

// logOnOnce is NTLM's three legs with empty requests, so that nothing of a message
// is on the wire before it is done.
func (l *lane) logOnOnce(ctx context.Context) error {
	domain, user := l.t.e.account()
	c, err := ntlmssp.NewClient(ntlmssp.SetUserInfo(user, string(l.t.e.Password)), ntlmssp.SetDomain(domain))
	if err != nil {
		return &exchangeError{fmt.Errorf("NTLM: %w", err), false}
	}
	token, err := c.Authenticate(nil, nil)
	if err != nil {
		return &exchangeError{fmt.Errorf("NTLM: %w", err), false}
	}
	r, err := l.leg(ctx, token)
	if err != nil {
		return err
	}
	challenge, err := r.challenge()
	if err != nil {
		return err
	}
	challenged := l.conn
	if token, err = c.Authenticate(challenge, bindings(r.tls)); err != nil {
		return &exchangeError{fmt.Errorf("NTLM challenge: %w", err), false}
	}
	if r, err = l.leg(ctx, token); err != nil {
		return err
	}
	switch {
	case r.status == http.StatusUnauthorized && l.conn != challenged:
		return errMoved
	case r.status == http.StatusUnauthorized:
		return errRefused
	case r.status >= http.StatusInternalServerError:
		return &exchangeError{fmt.Errorf("HTTP %d to the logon", r.status), false}
	case l.t.e.Plain && c.SecuritySession() == nil:
		return &exchangeError{errors.New("NTLM: no session to seal messages with"), false}
	}
	l.ntlm = c
	return nil
}

func (l *lane) leg(ctx context.Context, token []byte) (response, error) {
	r, err := l.roundTrip(ctx, nil, soapType, "Negotiate "+base64.StdEncoding.EncodeToString(token))
	var lost *exchangeError
	if errors.As(err, &lost) {
		return r, &exchangeError{lost.error, false} // of the message nothing was sent
	}
	return r, err
}

// response is an answer as it came.
type response struct {
	status int
	header http.Header
	body   []byte
	tls    *tls.ConnectionState
}

// challenge returns NTLM's second message.
func (r response) challenge() ([]byte, error) {
	if r.status != http.StatusUnauthorized {
		return nil, &exchangeError{fmt.Errorf("HTTP %d where NTLM's challenge was due: is that WinRM?", r.status), false}
	}
	offers := r.header.Values("WWW-Authenticate")
	for _, o := range offers {
		scheme, value, _ := strings.Cut(o, " ")
		if strings.EqualFold(scheme, "Negotiate") && value != "" {
			if c, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value)); err == nil {
				return c, nil
			}
		}
	}
	return nil, fmt.Errorf("%w without a challenge of NTLM's; the machine offers %q", errRefused, offers)
}

// roundTrip is one HTTP request.
func (l *lane) roundTrip(ctx context.Context, body []byte, contentType, authorization string) (response, error) {
	var sent atomic.Bool
	lost := func(err error) error { return &exchangeError{err, sent.Load()} }
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
		GotConn:      func(i httptrace.GotConnInfo) { l.conn = i.Conn },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.t.e.url(), bytes.NewReader(body))
	if err != nil {
		return response{}, lost(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "labctl")
	if l.t.e.Auth == Basic {
		req.SetBasicAuth(l.t.e.User, string(l.t.e.Password))
	} else if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	res, err := l.http.RoundTrip(req)
	if err != nil {
		return response{}, lost(err)
	}
	defer res.Body.Close()
	limit := int64(l.t.e.EnvelopeSize) + 64*1024
	answer, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return response{}, lost(fmt.Errorf("read the answer: %w", err))
	}
	if int64(len(answer)) > limit {
		return response{}, lost(fmt.Errorf("answer is larger than %d bytes", limit))
	}
	return response{res.StatusCode, res.Header, answer, res.TLS}, nil
}
