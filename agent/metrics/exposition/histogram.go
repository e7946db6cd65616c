package exposition

import (
	"math"
	"slices"
	"sync"
)

// Distribution is a histogram, by labels. Its methods may be called from any goroutine.
type Distribution struct {
	family *Family
	// bounds are the buckets' upper ones, ascending, without the infinite one.
	bounds []float64

	mu sync.Mutex
	by map[string]*counts // by rendered labels
}

// counts are those of one set of labels; counts.in[i] is how many fell into bucket
// i and into none before it, the last one the infinite.
type counts struct {
	in  []uint64
	sum float64
}

// NewDistribution returns a histogram without observations. The bounds are the
// buckets' upper ones, ascending.
func NewDistribution(name, help string, bounds []float64, labels ...string) *Distribution {
	return &Distribution{family: NewFamily(Histogram, name, help, labels...), bounds: slices.Clone(bounds), by: map[string]*counts{}}
}

// Observe counts a value. Wrong label values are an error of the program's.
func (d *Distribution) Observe(value float64, labels ...string) error {
	rendered, err := d.family.render(labels)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.by[rendered]
	if c == nil {
		c = &counts{in: make([]uint64, len(d.bounds)+1)}
		d.by[rendered] = c
	}
	// A bound is part of its bucket ("le").
	i, _ := slices.BinarySearch(d.bounds, value)
	c.in[i]++
	c.sum += value
	return nil
}

// Show adds the histogram to a page, as far as anything has been observed.
func (d *Distribution) Show(p *Page) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for rendered, c := range d.by {
		var lines []line
		total := uint64(0)
		for i, n := range c.in {
			bound := math.Inf(1)
			if i < len(d.bounds) {
				bound = d.bounds[i]
			}
			total += n
			lines = append(lines, line{suffix: "_bucket", label: label("le", format(bound)), value: float64(total)})
		}
		lines = append(lines, line{suffix: "_sum", value: c.sum}, line{suffix: "_count", value: float64(total)})
		p.put(d.family, series{labels: rendered, lines: lines})
	}
}
