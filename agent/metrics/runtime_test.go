package metrics

import (
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"l4lab/agent/metrics/exposition"
)

// shapes are the families' types and labels, by name.
func shapes(families map[string]*dto.MetricFamily) map[string]string {
	all := map[string]string{}
	for name, f := range families {
		shape := f.GetType().String()
		for _, l := range f.Metric[0].Label {
			shape += " " + l.GetName()
		}
		for _, q := range f.Metric[0].GetSummary().GetQuantile() {
			shape += fmt.Sprint(" ", q.GetQuantile())
		}
		all[name] = shape
	}
	return all
}

// value is that of a family of one gauge or counter.
func value(f *dto.MetricFamily) float64 {
	return f.Metric[0].GetGauge().GetValue() + f.Metric[0].GetCounter().GetValue()
}

// gather is what Prometheus' client shows of its process and of Go.
func gather(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	list, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]*dto.MetricFamily{}
	for _, f := range list {
		families[f.GetName()] = f
	}
	return families
}

func TestRuntimeAndProcessAreShownAsPrometheusClientShowsThem(t *testing.T) {
	runtime.GC() // so that last_gc_time_seconds and the pauses are not 0
	want := gather(t)
	page := &exposition.Page{}
	goRuntime(page)
	process{page}.show()
	var text strings.Builder
	if err := page.Write(&text); err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	got, err := parser.TextToMetricFamilies(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if g, w := shapes(got), shapes(want); !maps.Equal(g, w) {
		t.Fatalf("shown are\n%v\nwant\n%v", g, w)
	}
	// These move between two looks, but not by half.
	for _, name := range []string{"go_threads", "go_memstats_sys_bytes", "go_memstats_heap_sys_bytes", "go_memstats_stack_sys_bytes",
		"go_memstats_gc_sys_bytes", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds",
		"process_network_receive_bytes_total", "process_network_transmit_bytes_total", "process_cpu_seconds_total"} {
		if g, w := value(got[name]), value(want[name]); g < w/2 || g > 2*w+1 {
			t.Errorf("%s is %v, the client says %v", name, g, w)
		}
	}
	for _, exact := range []string{"process_start_time_seconds", "process_max_fds", "go_gc_gogc_percent", "go_gc_gomemlimit_bytes",
		"go_sched_gomaxprocs_threads", "go_info", "go_memstats_last_gc_time_seconds"} {
		if g, w := value(got[exact]), value(want[exact]); g != w {
			t.Errorf("%s is %v, the client says %v", exact, g, w)
		}
	}
}

func TestScrapeIsCompressedForThoseWhoAskForIt(t *testing.T) {
	server := New(figures, slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		accepts string
		packed  bool
	}{
		{"", false}, {"identity", false}, {"gzip", true}, {"deflate, GZIP;q=0.5", true}, {"gzip;q=0, identity", false}, {"gzip;q=x", false}, {"br", false},
	} {
		t.Run(c.accepts, func(t *testing.T) {
			request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			request.Header.Set("Accept-Encoding", c.accepts)
			answer := httptest.NewRecorder()
			server.ServeHTTP(answer, request)
			var body io.Reader = answer.Body
			if packed := answer.Header().Get("Content-Encoding") == "gzip"; packed != c.packed {
				t.Fatalf("compressed: %v", packed)
			}
			if c.packed {
				var err error
				if body, err = gzip.NewReader(answer.Body); err != nil {
					t.Fatal(err)
				}
			}
			text, err := io.ReadAll(body)
			if err != nil || !strings.Contains(string(text), "lbagent_sweeps_total 6\n") {
				t.Errorf("it is %v, %s", err, text)
			}
			if got := answer.Header().Get("Content-Type"); got != exposition.ContentType {
				t.Errorf("its type is %q", got)
			}
		})
	}
}

func TestOneScrapeTooManyIsRefused(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	server := New(func() (Figures, error) {
		begun <- struct{}{}
		<-end
		return Figures{}, nil
	}, slog.New(slog.DiscardHandler))
	codes := make(chan int)
	scrape := func() {
		answer := httptest.NewRecorder()
		server.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		codes <- answer.Code
	}
	for range scrapesAtOnce {
		go scrape()
		<-begun
	}
	go scrape()
	if code := <-codes; code != http.StatusServiceUnavailable {
		t.Errorf("status %d", code)
	}
	close(end)
	for range scrapesAtOnce {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("one before has status %d", code)
		}
	}
}
