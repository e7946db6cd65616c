package wsman

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"net/http"
	"strings"
	"sync"

	"l4lab/lab/powershell"
)

// connection is what the server knows of one: NTLM logs connections on, not
// requests (RFC 4559 section 6).
type connection struct {
	raw net.Conn
	tls bool

	mu        sync.Mutex
	user      string
	seal      *sealer
	handshake *handshake
}

type connectionKey struct{}

func connectionOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}

// forget logs a connection off.
func (c *connection) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.user, c.seal, c.handshake = "", nil, nil
}

// password looks a user up without case.
func (s *Server) password(user string) (powershell.Password, bool) {
	for name, p := range s.Users {
		if strings.EqualFold(name, user) {
			return p, true
		}
	}
	return "", false
}

// logon returns the request's user. Without one it returns the value that
// WWW-Authenticate's Negotiate has for the next leg, "" for the first.
func (s *Server) logon(r *http.Request, c *connection) (user, challenge string) {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case scheme == "" && !c.tls && !isSealed(r):
		// Over HTTP what is not sealed counts for nobody's, even on a connection
		// that is logged on: masterzen's encryption depends on being asked anew.
		return "", ""
	case scheme == "":
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.user, ""
	case strings.EqualFold(scheme, "Basic") && c.tls:
		return s.basic(r), ""
	case strings.EqualFold(scheme, "Negotiate"), strings.EqualFold(scheme, "NTLM"):
		return s.ntlm(r.Context(), c, scheme, strings.TrimSpace(value))
	}
	return "", ""
}

// basic compares in constant time; an unknown user costs as much as a known one.
func (s *Server) basic(r *http.Request) string {
	name, given, ok := r.BasicAuth()
	if !ok {
		return ""
	}
	if _, plain, found := strings.Cut(name, `\`); found {
		name = plain
	}
	want, known := s.password(name)
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want))
	if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || !known {
		return ""
	}
	return name
}

func (s *Server) ntlm(ctx context.Context, c *connection, scheme, value string) (user, challenge string) {
	message, err := base64.StdEncoding.DecodeString(value)
	if err != nil || len(message) < 12 {
		return "", ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if messageType(message) == 1 {
		c.user, c.seal = "", nil
		if c.handshake, err = challengeTo(ctx, message); err != nil {
			return "", ""
		}
		return "", scheme + " " + base64.StdEncoding.EncodeToString(c.handshake.challenge)
	}
	h := c.handshake
	c.handshake = nil
	if h == nil {
		return "", ""
	}
	if c.user, c.seal, err = h.authenticate(ctx, message, s.password); err != nil {
		c.user, c.seal = "", nil
	}
	return c.user, ""
}

// refuse answers 401 with what is offered, or the challenge.
func refuse(w http.ResponseWriter, c *connection, challenge string) {
	if challenge != "" {
		w.Header().Set("WWW-Authenticate", challenge)
	} else {
		w.Header().Add("WWW-Authenticate", "Negotiate")
		if c.tls {
			w.Header().Add("WWW-Authenticate", `Basic realm="WSMAN"`)
		}
	}
	w.WriteHeader(http.StatusUnauthorized)
}
