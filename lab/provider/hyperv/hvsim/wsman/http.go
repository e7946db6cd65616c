package wsman

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// ServeHTTP is the service at /wsman.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.init()
	c := connectionOf(r.Context())
	number := int(s.requests.Add(1))
	// What is not read of a body would make net/http close the connection, and
	// the logon with it.
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(s.limits.EnvelopeSize)+headroom))
	rest, _ := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	if !s.pause(r, s.Latency) {
		return
	}
	if r.URL.Path != "/wsman" || r.Method != http.MethodPost || c == nil {
		http.Error(w, "", http.StatusNotFound)
		return
	}
	q, user, challenge, status := s.request(r, c, body, rest > 0)
	f := s.faultFor(number, q)
	if f != nil && s.before(w, r, c, q, f) {
		return
	}
	if user == "" {
		refuse(w, c, challenge)
		return
	}
	if q == nil {
		w.WriteHeader(status)
		return
	}
	status, answer := s.answer(r, user, q)
	if f != nil && s.after(w, f, c, status, answer) {
		return
	}
	s.write(w, r, c, status, answer)
}

// incoming is a request with the error that it is, if any.
type incoming struct {
	*request
	err error
}

// request logs a request on and reads it. It returns no request with the status
// to answer where there is none of SOAP: 200 for an empty one, which only logs on.
func (s *Server) request(r *http.Request, c *connection, body []byte, tooLarge bool) (q *incoming, user, challenge string, status int) {
	user, challenge = s.logon(r, c)
	if user == "" || len(body) == 0 {
		return nil, user, challenge, http.StatusOK
	}
	if !c.tls {
		if c.seal == nil || !isSealed(r) {
			// AllowUnencrypted is false by default.
			return nil, user, "", http.StatusInternalServerError
		}
		plain, err := c.seal.open(r.Context(), body)
		if err != nil && !tooLarge {
			return nil, user, "", http.StatusBadRequest
		}
		body = plain
	}
	if tooLarge || len(body) > s.limits.EnvelopeSize {
		return nil, user, "", http.StatusRequestEntityTooLarge
	}
	parsed, err := parseRequest(body)
	return &incoming{parsed, err}, user, "", http.StatusOK
}

func isSealed(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/encrypted")
}

// answer does what was asked.
func (s *Server) answer(r *http.Request, user string, q *incoming) (int, []byte) {
	if q.err != nil {
		return http.StatusInternalServerError, answerFault(faultOf(q.err), "")
	}
	action, body, err := s.operation(r.Context(), user, q.request)
	if err == nil {
		out := answer(action, q.Header.MessageID, body)
		if len(out) <= s.limits.EnvelopeSize {
			return http.StatusOK, out
		}
		err = &fault{codeEnvelopeExceeded, "w:EncodingLimit", fmt.Sprintf("The WS-Management service cannot process the request because its response of %d bytes is larger than the maximum envelope size.", len(out))}
	}
	return http.StatusInternalServerError, answerFault(faultOf(err), q.Header.MessageID)
}

// write sends an answer, sealed where there is no TLS.
func (s *Server) write(w http.ResponseWriter, r *http.Request, c *connection, status int, answer []byte) {
	w.Header().Set("Content-Type", soapType)
	if !c.tls {
		sealed, err := c.seal.seal(r.Context(), answer)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		answer = sealed
		w.Header().Set("Content-Type", sealedType)
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// pause waits; false when the client is gone first.
func (s *Server) pause(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-r.Context().Done():
		return false
	}
}

// cut breaks a connection off; with partial, after that many bytes of an answer.
func cut(w http.ResponseWriter, c *connection, partial []byte) {
	conn, buffer, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	_, _ = buffer.Write(partial)
	_ = buffer.Flush()
	if tcp, ok := c.raw.(*net.TCPConn); ok && partial == nil {
		_ = tcp.SetLinger(0) // RST in place of FIN
	}
	_ = conn.Close()
}

// truncated is an answer's head and half of its body.
func truncated(status int, answer []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", status, http.StatusText(status), soapType, len(answer))
	b.Write(answer[:len(answer)/2])
	return b.Bytes()
}
