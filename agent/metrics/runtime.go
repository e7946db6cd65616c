package metrics

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"l4lab/agent/metrics/exposition"
)

// goRuntime shows Go's runtime under the names that Prometheus' client gives its
// figures, so that dashboards made for those work.
func goRuntime(page *exposition.Page) {
	gauge := func(name, help string, value float64, labels ...string) {
		page.Add(exposition.NewFamily(exposition.Gauge, "go_"+name, help), value, labels...)
	}
	page.Add(exposition.NewFamily(exposition.Gauge, "go_info", "The Go version that the program was built with; always 1.", "version"), 1, runtime.Version())
	gauge("goroutines", "Goroutines that exist.", float64(runtime.NumGoroutine()))
	threads, _ := runtime.ThreadCreateProfile(nil)
	gauge("threads", "Threads made so far.", float64(threads))
	settings := []metrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/gomemlimit:bytes"}}
	metrics.Read(settings)
	gauge("gc_gogc_percent", "Growth of the heap that starts a collection (GOGC).", float64(settings[0].Value.Uint64()))
	gauge("gc_gomemlimit_bytes", "Limit of the runtime's memory (GOMEMLIMIT).", float64(settings[1].Value.Uint64()))
	gauge("sched_gomaxprocs_threads", "Threads that may run Go code at a time (GOMAXPROCS).", float64(runtime.GOMAXPROCS(0)))
	goCollections(page)
	goMemory(page)
}

// goCollections shows the garbage collections' pauses.
func goCollections(page *exposition.Page) {
	stats := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&stats)
	var quantiles []exposition.Quantile
	for i, pause := range stats.PauseQuantiles {
		quantiles = append(quantiles, exposition.Quantile{Of: float64(i) / 4, Value: pause.Seconds()})
	}
	page.AddSummary(exposition.NewFamily(exposition.Summary, "go_gc_duration_seconds", "Pauses of the garbage collections."),
		quantiles, stats.PauseTotal.Seconds(), uint64(stats.NumGC))
}

// goMemory shows the heap and what else the runtime has of the system.
func goMemory(page *exposition.Page) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	last := 0.0
	if m.LastGC > 0 {
		last = float64(m.LastGC) / 1e9
	}
	for _, f := range []struct {
		kind       exposition.Type
		name, help string
		value      float64
	}{
		{exposition.Gauge, "alloc_bytes", "Bytes of the heap's objects.", float64(m.Alloc)},
		{exposition.Counter, "alloc_bytes_total", "Bytes allocated on the heap so far.", float64(m.TotalAlloc)},
		{exposition.Gauge, "sys_bytes", "Bytes obtained from the system.", float64(m.Sys)},
		{exposition.Counter, "mallocs_total", "Objects allocated on the heap so far.", float64(m.Mallocs)},
		{exposition.Counter, "frees_total", "Objects of the heap freed so far.", float64(m.Frees)},
		{exposition.Gauge, "heap_alloc_bytes", "Bytes of the heap's objects, as go_memstats_alloc_bytes.", float64(m.HeapAlloc)},
		{exposition.Gauge, "heap_sys_bytes", "Bytes of the heap obtained from the system.", float64(m.HeapSys)},
		{exposition.Gauge, "heap_idle_bytes", "Bytes of the heap's unused spans.", float64(m.HeapIdle)},
		{exposition.Gauge, "heap_inuse_bytes", "Bytes of the heap's spans in use.", float64(m.HeapInuse)},
		{exposition.Gauge, "heap_released_bytes", "Bytes of the heap given back to the system.", float64(m.HeapReleased)},
		{exposition.Gauge, "heap_objects", "Objects on the heap.", float64(m.HeapObjects)},
		{exposition.Gauge, "stack_inuse_bytes", "Bytes of the stacks' spans in use.", float64(m.StackInuse)},
		{exposition.Gauge, "stack_sys_bytes", "Bytes of stacks obtained from the system.", float64(m.StackSys)},
		{exposition.Gauge, "mspan_inuse_bytes", "Bytes of the spans' own structures in use.", float64(m.MSpanInuse)},
		{exposition.Gauge, "mspan_sys_bytes", "Bytes of the spans' own structures obtained from the system.", float64(m.MSpanSys)},
		{exposition.Gauge, "mcache_inuse_bytes", "Bytes of the processors' caches in use.", float64(m.MCacheInuse)},
		{exposition.Gauge, "mcache_sys_bytes", "Bytes of the processors' caches obtained from the system.", float64(m.MCacheSys)},
		{exposition.Gauge, "buck_hash_sys_bytes", "Bytes of the profiles' tables.", float64(m.BuckHashSys)},
		{exposition.Gauge, "gc_sys_bytes", "Bytes that the collector keeps of its own.", float64(m.GCSys)},
		{exposition.Gauge, "other_sys_bytes", "Bytes of the rest obtained from the system.", float64(m.OtherSys)},
		{exposition.Gauge, "next_gc_bytes", "Bytes of the heap at which the next collection ends.", float64(m.NextGC)},
		{exposition.Gauge, "last_gc_time_seconds", "When the last collection ended, since the epoch.", last},
	} {
		page.Add(exposition.NewFamily(f.kind, "go_memstats_"+f.name, f.help), f.value)
	}
}
