package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/health"
)

func figures() (Figures, error) {
	backend := netip.MustParseAddrPort("20.1.1.10:80")
	sick := netip.MustParseAddrPort("20.1.1.20:80")
	heavy := uint16(5)
	n := api.Traffic{RxPackets: 1, RxBytes: 2, TxPackets: 3, TxBytes: 4, Connections: 5}
	return Figures{
		Build:     Build{Version: "v1", Profile: "linux", Go: "go1", Layout: 2},
		StartedAt: time.Unix(1000, 5e8),
		Services: []api.Service{{ID: 7, Frontend: netip.MustParseAddrPort("40.1.1.1:80"), Protocol: "tcp", Mode: "dsr",
			Backends: []api.Backend{{Address: backend, Weight: &heavy, Health: "healthy"}, {Address: sick, State: "draining", Health: "quarantined"}}}},
		Counters: api.Counters{Drops: map[string]uint64{"no_backend": 3},
			Services: []api.ServiceCounters{{ID: 7, Traffic: n, Backends: []api.BackendCounters{{Address: backend, Traffic: n}}}}},
		ICMP:  map[string]uint64{"echo_answered": 9},
		Loss:  datapath.EventLoss{Suppressed: 10, Lost: 11},
		Rooms: map[string]datapath.Room{"flows4": {Used: 12, Size: 100}},
		Checks: []health.Status{{Service: 7, Backend: sick, Result: health.Failed, Passes: 1, Failures: 2, Unclear: 3, Late: 4,
			CheckedAt: time.Unix(1, 0), Duration: 250 * time.Millisecond}},
		Sweeps: Sweeps{Done: 6, Last: time.Unix(2000, 0), Connections: 12},
	}, nil
}

func TestMetricsAreNamedAsPrometheusWants(t *testing.T) {
	server := New(figures, slog.New(slog.DiscardHandler))
	if err := server.Timed(prober{}, "direct").Probe(t.Context(), health.Target{}); err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(strings.NewReader(scrapeOf(t, server))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestEveryFigureIsShown(t *testing.T) {
	server := New(figures, slog.New(slog.DiscardHandler))
	text := scrapeOf(t, server)
	for _, want := range []string{
		`lbagent_build_info{goversion="go1",layout="2",profile="linux",version="v1"} 1`,
		`lbagent_start_time_seconds 1000.5`,
		`lbagent_service_info{frontend="40.1.1.1:80",mode="dsr",protocol="tcp",service="7"} 1`,
		`lbagent_service_received_packets_total{service="7"} 1`,
		`lbagent_service_received_bytes_total{service="7"} 2`,
		`lbagent_backend_sent_packets_total{backend="20.1.1.10:80",service="7"} 3`,
		`lbagent_backend_sent_bytes_total{backend="20.1.1.10:80",service="7"} 4`,
		`lbagent_backend_connections_total{backend="20.1.1.10:80",service="7"} 5`,
		`lbagent_backend_weight{backend="20.1.1.10:80",service="7"} 5`,
		`lbagent_backend_weight{backend="20.1.1.20:80",service="7"} 1`,
		`lbagent_backend_state{backend="20.1.1.10:80",service="7",state="active"} 1`,
		`lbagent_backend_state{backend="20.1.1.20:80",service="7",state="active"} 0`,
		`lbagent_backend_state{backend="20.1.1.20:80",service="7",state="draining"} 1`,
		`lbagent_backend_healthy{backend="20.1.1.10:80",service="7"} 1`,
		`lbagent_backend_healthy{backend="20.1.1.20:80",service="7"} 0`,
		`lbagent_health_checks_total{backend="20.1.1.20:80",result="failed",service="7"} 2`,
		`lbagent_health_checks_late_total{backend="20.1.1.20:80",service="7"} 4`,
		`lbagent_health_check_last_duration_seconds{backend="20.1.1.20:80",service="7"} 0.25`,
		`lbagent_dropped_packets_total{reason="no_backend"} 3`,
		`lbagent_icmp_packets_total{deed="echo_answered"} 9`,
		`lbagent_events_suppressed_total 10`,
		`lbagent_events_lost_total 11`,
		`lbagent_table_entries{table="flows4"} 12`,
		`lbagent_table_capacity_entries{table="flows4"} 100`,
		`lbagent_sweeps_total 6`,
		`lbagent_last_sweep_timestamp_seconds 2000`,
		`lbagent_live_connections 12`,
		`go_goroutines `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not shown", want)
		}
	}
}

// scrapeOf is what GET /metrics answers.
func scrapeOf(t *testing.T, server *Server) string {
	t.Helper()
	text, code := scrape1(t, server)
	if code != http.StatusOK {
		t.Fatalf("status %d: %s", code, text)
	}
	return text
}

func scrape1(t *testing.T, server *Server) (string, int) {
	t.Helper()
	listener, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	defer func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	}()
	response, err := http.Get("http://" + listener.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), response.StatusCode
}

func TestFigureThatCannotBeReadFailsTheScrape(t *testing.T) {
	server := New(func() (Figures, error) { return Figures{}, errors.New("the map is gone") }, slog.New(slog.DiscardHandler))
	if text, code := scrape1(t, server); code != http.StatusInternalServerError || !strings.Contains(text, "the map is gone") {
		t.Errorf("status %d: %s", code, text)
	}
}

func TestMetricsAreForThisMachineAloneUnlessPermitted(t *testing.T) {
	for _, c := range []struct {
		address string
		public  bool
		says    string
	}{
		{"0.0.0.0:0", false, "--metrics-public"},
		{"[::]:0", false, "--metrics-public"},
		{"20.1.1.1:9100", false, "--metrics-public"},
		{":9100", false, "ADDRESS:PORT"},
		{"127.0.0.1", false, "ADDRESS:PORT"},
		{"127.0.0.1:0", false, ""},
		{"[::ffff:127.0.0.1]:0", false, ""},
		{"0.0.0.0:0", true, ""},
	} {
		t.Run(c.address, func(t *testing.T) {
			l, err := Listen(c.address, c.public)
			if err == nil {
				_ = l.Close()
			}
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

func TestTakenAddressIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(l.Addr().String(), false); err == nil {
		t.Error("it listens")
	}
}

// prober answers with its error.
type prober struct{ err error }

func (p prober) Probe(context.Context, health.Target) error { return p.err }

func TestDurationsOfChecksAreCountedByWayAndResult(t *testing.T) {
	server := New(figures, slog.New(slog.DiscardHandler))
	for via, answers := range map[string][]error{"direct": {nil, nil, errors.New("refused")}, "vip": {health.ErrInconclusive}} {
		for _, answer := range answers {
			if err := server.Timed(prober{answer}, via).Probe(t.Context(), health.Target{}); !errors.Is(err, answer) {
				t.Errorf("the check says %v", err)
			}
		}
	}
	text := scrapeOf(t, server)
	for _, want := range []string{
		`lbagent_health_check_duration_seconds_count{result="passed",via="direct"} 2`,
		`lbagent_health_check_duration_seconds_count{result="failed",via="direct"} 1`,
		`lbagent_health_check_duration_seconds_count{result="inconclusive",via="vip"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not shown", want)
		}
	}
}
