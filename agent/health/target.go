package health

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"

	"l4lab/agent/api"
)

// The words of api.HealthCheck and api.Service.
const (
	typeTCP   = "tcp"
	typeHTTP  = "http"
	viaDirect = "direct"
	viaVIP    = "vip"
	modeSNAT  = "snat"
	encapIPIP = "ipip"
	encapL2   = "l2"
)

// Target is what one check asks, and how.
type Target struct {
	Service uint32
	// Backend is asked by direct checks, with the port to check.
	Backend netip.AddrPort
	// VIP is asked by those through the VIP. Its port is the frontend's, since DSR
	// leaves ports alone, unless the check names another.
	VIP netip.AddrPort
	// HTTP says that a GET is wanted, not only a connection.
	HTTP bool
	// Path and Status are the GET's; Status 0 means 200 to 399.
	Path   string
	Status int
	// Encap is "ipip" or "l2", OuterSource as in api.Service.
	Encap       string
	OuterSource string
}

// targetOf makes a target of a service that Validate has passed.
func targetOf(s api.Service, backend netip.AddrPort) Target {
	c := s.HealthCheck
	t := Target{
		Service: s.ID, HTTP: c.Type == typeHTTP, Path: c.Path, Status: c.Status,
		Encap: s.Encap, OuterSource: s.OuterSource,
	}
	port, vipPort := c.Port, c.Port
	if port == 0 {
		port, vipPort = backend.Port(), s.Frontend.Port()
	}
	if port == 0 {
		port = s.Frontend.Port()
	}
	t.Backend = netip.AddrPortFrom(backend.Addr().Unmap(), port)
	t.VIP = netip.AddrPortFrom(s.Frontend.Addr().Unmap(), vipPort)
	if t.Path == "" {
		t.Path = "/"
	}
	if t.Encap == "" {
		t.Encap = encapIPIP
	}
	return t
}

// host is the Host header: the VIP, as clients say it, so that a server with
// several sites answers with the one that they get.
func (t Target) host() string {
	if t.VIP.Port() != 80 {
		return t.VIP.String()
	}
	if t.VIP.Addr().Is6() {
		return "[" + t.VIP.Addr().String() + "]"
	}
	return t.VIP.Addr().String()
}

// Request is the GET. It asks the server to close, so that one which waits for the
// end of the answer has it.
func (t Target) Request() []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: lbagent-health\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		t.Path, t.host())
}

// MaxAnswer bounds how much of an answer is read for its status.
const MaxAnswer = 16 << 10

// Judge looks at what a server has answered so far. It is not done while the
// status line is incomplete; interim answers (1xx, RFC 9110 section 15.2) are passed
// over. The body is nobody's concern. A redirect is an answer like others.
func (t Target) Judge(answer []byte) (done bool, err error) {
	rest := answer
	for {
		if n := min(len(rest), len("HTTP/")); string(rest[:n]) != "HTTP/"[:n] {
			return true, fmt.Errorf("the answer is no HTTP: it begins with %q", rest[:min(len(rest), 32)])
		}
		line, _, complete := bytes.Cut(rest, []byte("\n"))
		if !complete {
			break
		}
		status, ok := parseStatus(line)
		if !ok {
			return true, fmt.Errorf("bad status line %q", line[:min(len(line), 64)])
		}
		if status >= 200 || status == 101 { // after 101 (switching protocols) no other comes
			return true, t.wanted(status)
		}
		_, after, ended := bytes.Cut(rest, []byte("\r\n\r\n"))
		if !ended {
			break
		}
		rest = after
	}
	if len(answer) >= MaxAnswer {
		return true, fmt.Errorf("no status in the first %d bytes", len(answer))
	}
	return false, nil
}

// parseStatus reads "HTTP/1.1 200 OK" (RFC 9112 section 4).
func parseStatus(line []byte) (int, bool) {
	fields := bytes.SplitN(bytes.TrimSuffix(line, []byte("\r")), []byte(" "), 3)
	if len(fields) < 2 || len(fields[1]) != 3 {
		return 0, false
	}
	status, err := strconv.ParseUint(string(fields[1]), 10, 16)
	return int(status), err == nil && status >= 100
}

func (t Target) wanted(status int) error {
	switch {
	case t.Status != 0 && status != t.Status:
		return fmt.Errorf("status %d, wanted %d", status, t.Status)
	case t.Status == 0 && (status < 200 || status > 399):
		return fmt.Errorf("status %d, wanted 200 to 399", status)
	}
	return nil
}
