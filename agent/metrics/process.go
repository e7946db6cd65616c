package metrics

import "l4lab/agent/metrics/exposition"

// process shows this process under the names that every exporter gives its own
// (https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics).
// What the system does not tell is left out, since a scrape should not fail for it.
type process struct{ page *exposition.Page }

func (p process) gauge(name, help string, value float64) {
	p.page.Add(exposition.NewFamily(exposition.Gauge, "process_"+name, help), value)
}

func (p process) counter(name, help string, value float64) {
	p.page.Add(exposition.NewFamily(exposition.Counter, "process_"+name, help), value)
}

func (p process) times(cpu, started float64) {
	p.counter("cpu_seconds_total", "Processor time of the process, its own and the system's for it.", cpu)
	p.gauge("start_time_seconds", "When the process started, since the epoch.", started)
}

func (p process) memory(virtual, resident float64) {
	p.gauge("virtual_memory_bytes", "Virtual memory of the process.", virtual)
	p.gauge("resident_memory_bytes", "Resident memory of the process.", resident)
}

func (p process) openFiles(n float64) { p.gauge("open_fds", "Open file descriptors.", n) }

func (p process) maxFiles(n float64) {
	p.gauge("max_fds", "File descriptors that the process may have open.", n)
}
