package health

import (
	"fmt"
	"strings"
	"time"

	"l4lab/agent/api"
)

// The defaults of api.HealthCheck, and its bounds.
const (
	defaultInterval = 5 * time.Second
	defaultTimeout  = time.Second
	defaultRise     = 2
	defaultFall     = 3
	// minInterval keeps a slip of the unit ("5ms") from flooding backends.
	minInterval = 100 * time.Millisecond
	maxInterval = 24 * time.Hour
	// maxPath lets the request fit into one segment, whatever the path.
	maxPath = 1024
	maxRuns = 1000
)

// Validate says what is wrong with the health check of a service, as an
// *api.Error that names the field. It needs the service's mode to be filled in.
func Validate(s api.Service) error {
	c := s.HealthCheck
	if c == nil {
		return nil
	}
	if c.Type != typeTCP && c.Type != typeHTTP {
		return refuse("type", "%q is no check; wanted is tcp or http", c.Type)
	}
	switch c.Via {
	case "", viaDirect, viaVIP:
	default:
		return refuse("via", "%q is no way to a backend; wanted is direct or vip", c.Via)
	}
	if c.Port == 0 && s.Frontend.Port() == 0 {
		return refuse("port", "is missing: a service of all ports has none to check")
	}
	if c.Type == typeTCP && (c.Path != "" || c.Status != 0) {
		return refuse("type", "is tcp, but path and status are of http")
	}
	if err := validatePath(c.Path); err != nil {
		return err
	}
	if c.Status != 0 && (c.Status < 100 || c.Status > 599) {
		return refuse("status", "%d is no HTTP status", c.Status)
	}
	return validateTimes(c)
}

// validatePath admits only what can stand in a request line, which has no
// room for another header.
func validatePath(path string) error {
	switch {
	case path == "":
	case path[0] != '/':
		return refuse("path", "%q must begin with /", path)
	case len(path) > maxPath:
		return refuse("path", "has %d bytes; at most %d fit into one packet", len(path), maxPath)
	case strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }):
		return refuse("path", "%q has characters that need escaping (%%20)", path)
	}
	return nil
}

func validateTimes(c *api.HealthCheck) error {
	interval, timeout := time.Duration(c.Interval), time.Duration(c.Timeout)
	switch {
	case interval != 0 && (interval < minInterval || interval > maxInterval):
		return refuse("interval", "is %s; wanted is %s to %s", interval, minInterval, maxInterval)
	case timeout < 0:
		return refuse("timeout", "is %s", timeout)
	case timeout > intervalOf(c):
		return refuse("timeout", "%s is longer than the interval, %s", timeout, intervalOf(c))
	case c.Rise < 0 || c.Rise > maxRuns:
		return refuse("rise", "is %d; wanted is 1 to %d", c.Rise, maxRuns)
	case c.Fall < 0 || c.Fall > maxRuns:
		return refuse("fall", "is %d; wanted is 1 to %d", c.Fall, maxRuns)
	}
	return nil
}

func refuse(field, format string, args ...any) error {
	return &api.Error{Field: "healthCheck." + field, Message: fmt.Sprintf(format, args...)}
}

func intervalOf(c *api.HealthCheck) time.Duration {
	if c.Interval == 0 {
		return defaultInterval
	}
	return time.Duration(c.Interval)
}

// timeoutOf is at most the interval, also where the timeout is left open.
func timeoutOf(c *api.HealthCheck) time.Duration {
	if c.Timeout == 0 {
		return min(defaultTimeout, intervalOf(c))
	}
	return time.Duration(c.Timeout)
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
