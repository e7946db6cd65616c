package exposition

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

func write(t *testing.T, p *Page) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// parse reads a page as Prometheus' own client does.
func parse(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("the client's parser: %v in\n%s", err, text)
	}
	return families
}

// TestPageIsWhatPrometheusOwnClientWrites fills a page and a registry of that
// client with the same, and compares the texts byte by byte.
func TestPageIsWhatPrometheusOwnClientWrites(t *testing.T) {
	awkward := "a\\b\"c\nd é \xff"
	var page Page
	registry := prometheus.NewRegistry()
	for _, c := range []struct {
		kind       Type
		theirs     prometheus.ValueType
		name, help string
	}{
		{Counter, prometheus.CounterValue, "b_total", "Help with \\ and\na line and \"quotes\"."},
		{Gauge, prometheus.GaugeValue, "a_bytes", "Plain."},
	} {
		family := NewFamily(c.kind, c.name, c.help, "z", "a")
		desc := prometheus.NewDesc(c.name, c.help, []string{"z", "a"}, nil)
		var metrics []prometheus.Metric
		for i, value := range []float64{0, 1, -1, 0.1, 1e6, 1e21, 123456789, 1.5e-9, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxUint64} {
			labels := []string{awkward, string(rune('a' + i))}
			page.Add(family, value, labels...)
			labels[0] = strings.ToValidUTF8(awkward, "\uFFFD") // it refuses others
			metrics = append(metrics, prometheus.MustNewConstMetric(desc, c.theirs, value, labels...))
		}
		registry.MustRegister(constant(metrics))
	}
	page.Add(NewFamily(Gauge, "no_labels", "None."), 7)
	registry.MustRegister(constant{prometheus.MustNewConstMetric(prometheus.NewDesc("no_labels", "None.", nil, nil), prometheus.GaugeValue, 7)})
	page.AddSummary(NewFamily(Summary, "s_seconds", "Summary.", "of"), []Quantile{{0, 1}, {0.25, 2}, {1, 3}}, 12.5, 4, "x")
	registry.MustRegister(constant{prometheus.MustNewConstSummary(prometheus.NewDesc("s_seconds", "Summary.", []string{"of"}, nil), 4, 12.5,
		map[float64]float64{0: 1, 0.25: 2, 1: 3}, "x")})
	bounds := []float64{0.001, 0.5, 2}
	ours := NewDistribution("h_seconds", "Histogram.", bounds, "via", "result")
	theirs := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "h_seconds", Help: "Histogram.", Buckets: bounds}, []string{"via", "result"})
	registry.MustRegister(theirs)
	for _, value := range []float64{0.0005, 0.001, 0.0011, 0.5, 1, 2, 3, 100} {
		if err := ours.Observe(value, "vip", "passed"); err != nil {
			t.Fatal(err)
		}
		theirs.WithLabelValues("vip", "passed").Observe(value)
	}
	if err := ours.Observe(1, "direct", "failed"); err != nil {
		t.Fatal(err)
	}
	theirs.WithLabelValues("direct", "failed").Observe(1)
	ours.Show(&page)

	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&want, f); err != nil {
			t.Fatal(err)
		}
	}
	got := write(t, &page)
	if got != want.String() {
		t.Errorf("it is\n%s\nwant\n%s", got, want.String())
	}
	if n := len(parse(t, got)); n != 5 {
		t.Errorf("the client's parser finds %d families, want 5", n)
	}
	if _, err := promlint.New(strings.NewReader(got)).Lint(); err != nil {
		t.Errorf("the client's linter: %v", err)
	}
}

// constant is a collector of metrics that do not change.
type constant []prometheus.Metric

func (c constant) Describe(to chan<- *prometheus.Desc) {
	for _, m := range c {
		to <- m.Desc()
	}
}

func (c constant) Collect(to chan<- prometheus.Metric) {
	for _, m := range c {
		to <- m
	}
}

func TestSamplesComeByFamilyAndLabelsWhateverTheirOrder(t *testing.T) {
	a, b := NewFamily(Gauge, "a", "A.", "of"), NewFamily(Gauge, "b", "B.", "of")
	var page Page
	page.Add(b, 4, "y")
	page.Add(a, 2, "y")
	page.Add(b, 3, "x")
	page.Add(a, 1, "x")
	want := "# HELP a A.\n# TYPE a gauge\na{of=\"x\"} 1\na{of=\"y\"} 2\n# HELP b B.\n# TYPE b gauge\nb{of=\"x\"} 3\nb{of=\"y\"} 4\n"
	if got := write(t, &page); got != want {
		t.Errorf("it is\n%s\nwant\n%s", got, want)
	}
}

func TestEmptyPageIsEmpty(t *testing.T) {
	if got := write(t, &Page{}); got != "" {
		t.Errorf("it is %q", got)
	}
}

func TestWrongPageIsNotWritten(t *testing.T) {
	f := NewFamily(Counter, "x_total", "X.", "of")
	for _, c := range []struct {
		name string
		fill func(*Page)
		want error
	}{
		{"too few label values", func(p *Page) { p.Add(f, 1) }, ErrLabels},
		{"too many label values", func(p *Page) { p.Add(f, 1, "a", "b") }, ErrLabels},
		{"the same labels twice", func(p *Page) { p.Add(f, 1, "a"); p.Add(f, 2, "b"); p.Add(f, 3, "a") }, ErrTwice},
	} {
		t.Run(c.name, func(t *testing.T) {
			var page Page
			c.fill(&page)
			var b bytes.Buffer
			if err := page.Write(&b); !errors.Is(err, c.want) || b.Len() > 0 {
				t.Errorf("got %v and %q, want %v", err, &b, c.want)
			}
		})
	}
	if err := NewDistribution("h", "H.", nil, "of").Observe(1); !errors.Is(err, ErrLabels) {
		t.Errorf("an observation without its label: %v", err)
	}
}

// broken takes nothing.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestWriterThatFailsIsToldOf(t *testing.T) {
	var page Page
	page.Add(NewFamily(Gauge, "a", "A."), 1)
	if err := page.Write(broken{}); err == nil {
		t.Error("it succeeded")
	}
}

func TestObservationsSideBySideAreAllCounted(t *testing.T) {
	d := NewDistribution("h", "H.", []float64{1, 2}, "of")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				_ = d.Observe(1.5, "x")
				d.Show(&Page{})
			}
		})
	}
	all.Wait()
	var page Page
	d.Show(&page)
	h := parse(t, write(t, &page))["h"].Metric[0].Histogram
	if h.GetSampleCount() != 800 || h.GetSampleSum() != 1200 || h.Bucket[0].GetCumulativeCount() != 0 || h.Bucket[1].GetCumulativeCount() != 800 {
		t.Errorf("it is %v", h)
	}
}

func FuzzAnyLabelIsReadBackByTheClientsParser(f *testing.F) {
	f.Add("plain", "Help.")
	f.Add("\\\"\n\xff\x00", "\\\n\"")
	f.Fuzz(func(t *testing.T, value, help string) {
		var page Page
		page.Add(NewFamily(Gauge, "a", help, "of"), 1, value)
		got := parse(t, write(t, &page))["a"].Metric[0].Label[0].GetValue()
		if want := strings.ToValidUTF8(value, "\uFFFD"); got != want {
			t.Errorf("%q became %q", want, got)
		}
	})
}
