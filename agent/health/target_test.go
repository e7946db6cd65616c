package health

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
)

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		answer string
		status int
		want   string // "more", "well", or the error
	}{
		{"", 0, "more"},
		{"H", 0, "more"},
		{"HTTP/1.1 200", 0, "more"},
		{"HTTP/1.1 200 OK\r", 0, "more"},
		{"HTTP/1.1 200 OK\r\n", 0, "well"},
		{"HTTP/1.1 200\r\n", 0, "well"},
		{"HTTP/1.0 200 OK\n", 0, "well"},
		{"HTTP/1.1 399 \r\n", 0, "well"},
		{"HTTP/1.1 400 Bad\r\n", 0, "status 400, wanted 200 to 399"},
		{"HTTP/1.1 400 Bad\r\n", 400, "well"},
		{"HTTP/1.1 200 OK\r\n", 204, "status 200, wanted 204"},
		{"HTTP/1.1 101 Switching\r\n", 101, "well"},
		{"HTTP/1.1 103 Hints\r\n", 200, "more"},
		{"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\n", 200, "well"},
		{"HTTP/1.1 2000 OK\r\n", 0, `bad status line "HTTP/1.1 2000 OK\r"`},
		{"HTTP/1.1 +20 OK\r\n", 0, `bad status line "HTTP/1.1 +20 OK\r"`},
		{"HTTP/1.1\r\n", 0, `bad status line "HTTP/1.1\r"`},
		{"HTML", 0, `the answer is no HTTP: it begins with "HTML"`},
		{"HTTP/" + strings.Repeat("1", MaxAnswer), 0, fmt.Sprintf("no status in the first %d bytes", MaxAnswer+5)},
	} {
		got := "more"
		if done, err := (Target{Status: c.status}).Judge([]byte(c.answer)); err != nil {
			got = err.Error()
		} else if done {
			got = "well"
		}
		if got != c.want {
			t.Errorf("%.40q, wanted %d: got %s, want %s", c.answer, c.status, got, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*api.Service)
		field  string // "" means that it is right
	}{
		{"no check", func(s *api.Service) { s.HealthCheck = nil }, ""},
		{"tcp", func(*api.Service) {}, ""},
		{"http with all", func(s *api.Service) {
			*s.HealthCheck = api.HealthCheck{Type: "http", Via: "vip", Port: 8080, Path: "/a%20b?c=d", Status: 204,
				Interval: api.Duration(time.Minute), Timeout: api.Duration(time.Minute), Rise: 1, Fall: 10}
		}, ""},
		{"a short interval, and the timeout left open", func(s *api.Service) { s.HealthCheck.Interval = api.Duration(200 * time.Millisecond) }, ""},
		{"no type", func(s *api.Service) { s.HealthCheck.Type = "" }, "type"},
		{"an unknown type", func(s *api.Service) { s.HealthCheck.Type = "HTTP" }, "type"},
		{"an unknown way", func(s *api.Service) { s.HealthCheck.Via = "dip" }, "via"},
		{"all ports", func(s *api.Service) { s.Frontend = addrPort("40.1.1.1:0") }, "port"},
		{"all ports, one checked", func(s *api.Service) { s.Frontend = addrPort("40.1.1.1:0"); s.HealthCheck.Port = 80 }, ""},
		{"tcp with a path", func(s *api.Service) { s.HealthCheck.Path = "/" }, "type"},
		{"tcp with a status", func(s *api.Service) { s.HealthCheck.Status = 200 }, "type"},
		{"a path without its slash", ofHTTP(func(h *api.HealthCheck) { h.Path = "healthz" }), "path"},
		{"a path with another header in it", ofHTTP(func(h *api.HealthCheck) { h.Path = "/ HTTP/1.1\r\nHost: x" }), "path"},
		{"a path with a space", ofHTTP(func(h *api.HealthCheck) { h.Path = "/a b" }), "path"},
		{"a path with letters that need escaping", ofHTTP(func(h *api.HealthCheck) { h.Path = "/ä" }), "path"},
		{"a path too long for one packet", ofHTTP(func(h *api.HealthCheck) { h.Path = "/" + strings.Repeat("x", 1024) }), "path"},
		{"a status that is none", ofHTTP(func(h *api.HealthCheck) { h.Status = 600 }), "status"},
		{"a negative status", ofHTTP(func(h *api.HealthCheck) { h.Status = -1 }), "status"},
		{"an interval too short", func(s *api.Service) { s.HealthCheck.Interval = api.Duration(time.Millisecond) }, "interval"},
		{"a negative interval", func(s *api.Service) { s.HealthCheck.Interval = -1 }, "interval"},
		{"a negative timeout", func(s *api.Service) { s.HealthCheck.Timeout = -1 }, "timeout"},
		{"a timeout beyond the interval", func(s *api.Service) { s.HealthCheck.Timeout = api.Duration(6 * time.Second) }, "timeout"},
		{"a negative rise", func(s *api.Service) { s.HealthCheck.Rise = -1 }, "rise"},
		{"a negative fall", func(s *api.Service) { s.HealthCheck.Fall = -1 }, "fall"},
	} {
		s := svc(1, be1)
		c.change(&s)
		err := Validate(s)
		var fault *api.Error
		switch {
		case c.field == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.field != "" && (!errors.As(err, &fault) || fault.Field != "healthCheck."+c.field):
			t.Errorf("%s: got %v, want one of field %s", c.name, err, c.field)
		}
	}
}

func ofHTTP(change func(*api.HealthCheck)) func(*api.Service) {
	return func(s *api.Service) {
		s.HealthCheck.Type = "http"
		change(s.HealthCheck)
	}
}

func TestTheLongestRequestFitsIntoOneEncapsulatedPacket(t *testing.T) {
	target := Target{Path: "/" + strings.Repeat("x", maxPath-1), VIP: addrPort("[fd00:1111:2222:3333:4444:5555:6666:7777]:65535")}
	const mtu, headers = 1500, 40 + 40 + 20
	if n := len(target.Request()); n > mtu-headers {
		t.Errorf("it has %d bytes; %d fit", n, mtu-headers)
	}
}

func TestEligible(t *testing.T) {
	none, some := uint16(0), uint16(7)
	for _, c := range []struct {
		name     string
		backends string // state/health/weight each
		want     string
	}{
		{"all well", "active/healthy active//", "0 1"},
		{"one sick", "active/healthy active/quarantined", "0"},
		{"all sick: all", "active/quarantined active/quarantined", "0 1"},
		{"others are no reason to spare the sick", "active/quarantined draining/healthy maintenance/", "0"},
		{"a weight of none", "active/healthy/0 active/quarantined/7", "1"},
		{"nobody", "draining/healthy active/healthy/0", ""},
	} {
		var backends []api.Backend
		for i, word := range strings.Fields(c.backends) {
			parts := strings.Split(word+"//", "/")
			b := api.Backend{Address: addrPort(fmt.Sprintf("20.1.1.%d:80", i)), State: parts[0], Health: parts[1]}
			switch parts[2] {
			case "0":
				b.Weight = &none
			case "7":
				b.Weight = &some
			}
			backends = append(backends, b)
		}
		var got []string
		for _, b := range Eligible(backends) {
			got = append(got, fmt.Sprint(b.Address.Addr().As4()[3]))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %v, want %s", c.name, got, c.want)
		}
	}
}
