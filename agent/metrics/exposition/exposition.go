// Package exposition writes metrics in Prometheus' text format, version 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats/), which every
// version of Prometheus takes: figures that are read when somebody asks for them, and
// histograms.
//
//	requests := exposition.NewFamily(exposition.Counter, "web_requests_total", "Requests by code.", "code")
//	var page exposition.Page
//	page.Add(requests, 3, "200")
//	err := page.Write(w)
//
// It stands in the place of Prometheus' client for Go because of what that costs a
// program that nobody scrapes: it brings Protocol Buffers and more, whose packages
// are initialised at each start of the process. The tests read what is written here
// with that client's parser and linter. VictoriaMetrics' light client was no choice:
// it writes no help texts.
package exposition

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Type is a metric's, as its TYPE line has it.
type Type string

// The types there are, but for the untyped.
const (
	Counter   Type = "counter"
	Gauge     Type = "gauge"
	Histogram Type = "histogram"
	Summary   Type = "summary"
)

// ContentType is that of a page.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Errors of a page, each one of the program that fills it.
var (
	// ErrLabels: a sample has not as many label values as its family has labels.
	ErrLabels = errors.New("wrong number of label values")
	// ErrTwice: a scraper would refuse two samples of the same labels.
	ErrTwice = errors.New("is shown twice")
)

// Family is a metric without values: its name, help and type, and what its labels are called.
type Family struct {
	name, help string
	kind       Type
	labels     []string
	// order is that of the labels when they are written: by name.
	order []int
}

// NewFamily returns a family. Name and labels are of letters, digits and underscores.
func NewFamily(kind Type, name, help string, labels ...string) *Family {
	f := &Family{name: name, help: help, kind: kind, labels: labels, order: make([]int, len(labels))}
	for i := range f.order {
		f.order[i] = i
	}
	slices.SortFunc(f.order, func(a, b int) int { return cmp.Compare(labels[a], labels[b]) })
	return f
}

// render returns the labels as they stand within the braces.
func (f *Family) render(values []string) (string, error) {
	if len(values) != len(f.labels) {
		return "", fmt.Errorf("%s: %w: %d for %d labels", f.name, ErrLabels, len(values), len(f.labels))
	}
	var b strings.Builder
	for n, i := range f.order {
		if n > 0 {
			b.WriteByte(',')
		}
		b.WriteString(label(f.labels[i], values[i]))
	}
	return b.String(), nil
}

func label(name, value string) string {
	return name + `="` + labelEscapes.Replace(strings.ToValidUTF8(value, "\uFFFD")) + `"`
}

// Replacers are made at their first use, not at the program's start.
var (
	labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
)

// Page is what one scrape shows. The zero value is empty.
type Page struct {
	groups map[string]*group
	err    error
}

type group struct {
	*Family
	series []series
}

// series are the lines of one set of labels: one of a counter or gauge, several of
// a distribution.
type series struct {
	labels string
	value  float64
	// lines, when there are any, stand in the place of value.
	lines []line
}

// line is one of a distribution's.
type line struct {
	// suffix follows the name; label is one more, "" for none.
	suffix, label string
	value         float64
}

// Add shows a value of a counter or a gauge; its labels' values come in the order
// of the family's.
func (p *Page) Add(f *Family, value float64, labels ...string) {
	p.add(f, series{value: value}, labels)
}

// Quantile is a summary's: the Value that the share Of (0 to 1) of all does not exceed.
type Quantile struct{ Of, Value float64 }

// AddSummary shows a summary.
func (p *Page) AddSummary(f *Family, quantiles []Quantile, sum float64, count uint64, labels ...string) {
	var lines []line
	for _, q := range quantiles {
		lines = append(lines, line{label: label("quantile", format(q.Of)), value: q.Value})
	}
	p.add(f, series{lines: append(lines, line{suffix: "_sum", value: sum}, line{suffix: "_count", value: float64(count)})}, labels)
}

func (p *Page) add(f *Family, s series, labels []string) {
	rendered, err := f.render(labels)
	if err != nil {
		p.err = errors.Join(p.err, err)
		return
	}
	s.labels = rendered
	p.put(f, s)
}

func (p *Page) put(f *Family, s series) {
	g := p.groups[f.name]
	if g == nil {
		if p.groups == nil {
			p.groups = map[string]*group{}
		}
		g = &group{Family: f}
		p.groups[f.name] = g
	}
	g.series = append(g.series, s)
}

// Write writes the page, families by name and samples by labels. When what was
// added is wrong it writes nothing and says what.
func (p *Page) Write(to io.Writer) error {
	names := make([]string, 0, len(p.groups))
	err := p.err
	for name, g := range p.groups {
		names = append(names, name)
		slices.SortStableFunc(g.series, func(a, b series) int { return strings.Compare(a.labels, b.labels) })
		for i := 1; i < len(g.series); i++ {
			if g.series[i].labels == g.series[i-1].labels {
				err = errors.Join(err, fmt.Errorf("%s{%s} %w", name, g.series[i].labels, ErrTwice))
			}
		}
	}
	if err != nil {
		return err
	}
	slices.Sort(names)
	w := bufio.NewWriter(to)
	for _, name := range names {
		p.groups[name].write(w)
	}
	return w.Flush()
}

func (g *group) write(w *bufio.Writer) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", g.name, helpEscapes.Replace(g.help), g.name, g.kind)
	for _, s := range g.series {
		if s.lines == nil {
			sample(w, g.name, s.labels, "", s.value)
		}
		for _, l := range s.lines {
			sample(w, g.name+l.suffix, s.labels, l.label, l.value)
		}
	}
}

// sample writes a line; the writer keeps its first error.
func sample(w *bufio.Writer, name, labels, more string, value float64) {
	w.WriteString(name)
	if labels != "" || more != "" {
		w.WriteByte('{')
		w.WriteString(labels)
		if labels != "" && more != "" {
			w.WriteByte(',')
		}
		w.WriteString(more)
		w.WriteByte('}')
	}
	w.WriteByte(' ')
	w.WriteString(format(value))
	w.WriteByte('\n')
}

func format(value float64) string {
	switch {
	case math.IsInf(value, 1):
		return "+Inf"
	case math.IsInf(value, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(value, 'g', -1, 64)
}
