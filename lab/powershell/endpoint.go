package powershell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
)

// Password is a secret that no way of printing shows: not %v, %+v, %#v or %q,
// not JSON, not slog. What needs the text itself converts it: string(p).
type Password string

const hidden = "•••"

// String returns bullets.
func (Password) String() string { return hidden }

// GoString returns bullets.
func (Password) GoString() string { return hidden }

// MarshalJSON returns bullets.
func (Password) MarshalJSON() ([]byte, error) { return json.Marshal(hidden) }

// MarshalText returns bullets, which is what YAML and flags ask for.
func (Password) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue returns bullets.
func (Password) LogValue() slog.Value { return slog.StringValue(hidden) }

// Format writes bullets whatever the verb: %x would print the text otherwise.
func (Password) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(hidden)) }

// Auth is how a user proves who he is.
type Auth string

const (
	// NTLM is what Windows accepts by default, inside and outside domains.
	NTLM Auth = "ntlm"
	// Basic sends the password itself, so it is for HTTPS alone; the service
	// has it off by default.
	Basic Auth = "basic"
)

// Endpoint is where a machine's WinRM service is and how to log on to it.
type Endpoint struct {
	// Host is a name or an address.
	Host string
	// Port is 0 for WinRM's own: 5986 with TLS, 5985 without.
	Port int
	// Plain asks for HTTP in place of HTTPS. Messages are then sealed by NTLM
	// (MS-WSMV 2.2.9.1): with Basic it is refused.
	Plain bool
	// CAFile is a PEM file of the authorities to trust in place of the system's.
	CAFile string
	// Fingerprint is the SHA-256 of the machine's certificate in hex, colons
	// allowed: with it, that certificate is trusted whoever signed it, and no other.
	Fingerprint string
	// Auth is NTLM when empty.
	Auth Auth
	// User is "name", "DOMAIN\name" or "name@domain".
	User     string
	Password Password
	// Timeout bounds each request, and is how long the machine may stay silent
	// before a command's state is asked for again. 0: 30 s.
	Timeout time.Duration
	// Dial connects to the machine; nil: this machine's own network does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// EnvelopeSize is the most bytes of a request or an answer. 0: 512,000, the
	// default of the service since Windows Server 2012 (MaxEnvelopeSizekb 500).
	EnvelopeSize int
}

// The limits of an Endpoint where it says nothing, and of what it may say.
const (
	defaultTimeout      = 30 * time.Second
	defaultEnvelopeSize = 500 * 1024
	// minEnvelopeSize leaves room for a line of standard input besides the
	// headers; the service's own lower bound is 32 KB.
	minEnvelopeSize = 32 * 1024
)

// withDefaults fills in what is left out, and says what cannot be.
func (e Endpoint) withDefaults() (Endpoint, error) {
	if e.Port == 0 {
		e.Port = 5986
		if e.Plain {
			e.Port = 5985
		}
	}
	if e.Auth == "" {
		e.Auth = NTLM
	}
	if e.Timeout == 0 {
		e.Timeout = defaultTimeout
	}
	if e.EnvelopeSize == 0 {
		e.EnvelopeSize = defaultEnvelopeSize
	}
	return e, e.check()
}

func (e Endpoint) check() error {
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(e.Host == "", "no host")
	fault(e.Port < 1 || e.Port > 65535, "port %d is not one of 1 to 65535", e.Port)
	fault(e.User == "", "no user")
	fault(e.Password == "", "no password")
	fault(e.Auth != NTLM && e.Auth != Basic, "authentication %q is neither ntlm nor basic", e.Auth)
	fault(e.Auth == Basic && e.Plain, "basic authentication sends the password itself, so it needs HTTPS")
	fault(e.Plain && e.CAFile != "", "a CA file is for HTTPS")
	fault(e.Plain && e.Fingerprint != "", "a certificate's fingerprint is for HTTPS")
	fault(e.CAFile != "" && e.Fingerprint != "", "give a CA file or a fingerprint, not both")
	fault(e.Timeout < 0, "timeout %s is below 0", e.Timeout)
	fault(e.EnvelopeSize < minEnvelopeSize, "envelope size %d is below %d", e.EnvelopeSize, minEnvelopeSize)
	if e.Fingerprint != "" {
		if _, err := parseFingerprint(e.Fingerprint); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// address is what is dialled and what errors name.
func (e Endpoint) address() string { return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) }

// url is the service's; the path is fixed (MS-WSMV 2.2.4).
func (e Endpoint) url() string {
	if e.Plain {
		return "http://" + e.address() + "/wsman"
	}
	return "https://" + e.address() + "/wsman"
}

// account splits User as Windows does.
func (e Endpoint) account() (domain, name string) {
	if domain, name, ok := strings.Cut(e.User, `\`); ok {
		return domain, name
	}
	if name, domain, ok := strings.Cut(e.User, "@"); ok {
		return domain, name
	}
	return "", e.User
}
