// Package metrics offers the agent's figures to Prometheus. A Server asks the
// agent for all of them at each scrape, so nothing is counted twice and nothing goes
// on while nobody asks. Counters are the data path's own: they survive the agent.
package metrics

import (
	"strconv"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/health"
	"l4lab/agent/metrics/exposition"
)

// Figures are what one scrape shows.
type Figures struct {
	Build     Build
	StartedAt time.Time
	// Services are the desired ones, Counters their totals and those of the drops.
	Services []api.Service
	Counters api.Counters
	ICMP     map[string]uint64
	Loss     datapath.EventLoss
	Rooms    map[string]datapath.Room
	Checks   []health.Status
	Sweeps   Sweeps
}

// Build says what runs.
type Build struct {
	Version, Profile, Go string
	// Layout is the maps'.
	Layout uint32
}

// Sweeps says what the sweeps of the connections found.
type Sweeps struct {
	Done uint64
	// Last is when the last one ended; Connections what it found living.
	Last        time.Time
	Connections uint64
}

const namespace = "lbagent"

type family = *exposition.Family

func counter(name, help string, labels ...string) family {
	return exposition.NewFamily(exposition.Counter, namespace+"_"+name, help, labels...)
}

func gauge(name, help string, labels ...string) family {
	return exposition.NewFamily(exposition.Gauge, namespace+"_"+name, help, labels...)
}

// traffic are the five counters of a service or a backend.
type traffic [5]family

func trafficOf(what, of string, labels ...string) traffic {
	return traffic{
		counter(what+"_received_packets_total", "Packets of clients forwarded to "+of+".", labels...),
		counter(what+"_received_bytes_total", "Bytes of IP of clients forwarded to "+of+".", labels...),
		counter(what+"_sent_packets_total", "Packets of "+of+" forwarded to clients; SNAT only.", labels...),
		counter(what+"_sent_bytes_total", "Bytes of IP of "+of+" forwarded to clients; SNAT only.", labels...),
		counter(what+"_connections_total", "New flows of "+of+".", labels...),
	}
}

// families are all metrics. They are made at each scrape, which costs little, rather
// than kept in variables of the package.
type families struct {
	build, start                       family
	serviceInfo                        family
	service, backend                   traffic
	weight, state, healthy             family
	checks, late, duration             family
	drops, icmp                        family
	suppressed, lost                   family
	entries, capacity                  family
	sweeps, sweepTime, connectionsLive family
}

func newFamilies() families {
	return families{
		build:           gauge("build_info", "What runs; always 1.", "version", "profile", "layout", "goversion"),
		start:           gauge("start_time_seconds", "When the agent started, since the epoch."),
		serviceInfo:     gauge("service_info", "A service and what it is; always 1.", "service", "frontend", "protocol", "mode"),
		service:         trafficOf("service", "the service", "service"),
		backend:         trafficOf("backend", "the backend", "service", "backend"),
		weight:          gauge("backend_weight", "Share of new flows that the backend is meant to get.", "service", "backend"),
		state:           gauge("backend_state", "1 for the state that the backend is in.", "service", "backend", "state"),
		healthy:         gauge("backend_healthy", "Whether the backend passes its checks; of checked services only.", "service", "backend"),
		checks:          counter("health_checks_total", "Checks of a backend by result.", "service", "backend", "result"),
		late:            counter("health_checks_late_total", "Checks that began late.", "service", "backend"),
		duration:        gauge("health_check_last_duration_seconds", "How long the last check took.", "service", "backend"),
		drops:           counter("dropped_packets_total", "Packets dropped by reason.", "reason"),
		icmp:            counter("icmp_packets_total", "ICMP packets answered, sent on or made, by deed.", "deed"),
		suppressed:      counter("events_suppressed_total", "Flow events beyond the rate that was set."),
		lost:            counter("events_lost_total", "Flow events that found the ring full."),
		entries:         gauge("table_entries", "Entries in use of a table of the data path; of one that it fills itself, as some seconds ago.", "table"),
		capacity:        gauge("table_capacity_entries", "Entries that a table of the data path can have.", "table"),
		sweeps:          counter("sweeps_total", "Sweeps of the connections."),
		sweepTime:       gauge("last_sweep_timestamp_seconds", "When the last sweep ended, since the epoch."),
		connectionsLive: gauge("live_connections", "Connections that the last sweep found living."),
	}
}

// show adds the figures to a page.
func show(f Figures, page *exposition.Page) {
	s := scrape{families: newFamilies(), page: page}
	s.agent(f)
	s.services(f)
	s.health(f.Checks)
	s.dataPath(f)
}

// scrape adds figures to a page.
type scrape struct {
	families
	page *exposition.Page
}

func (s *scrape) send(f family, value float64, labels ...string) { s.page.Add(f, value, labels...) }

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

func (s *scrape) agent(f Figures) {
	s.send(s.build, 1, f.Build.Version, f.Build.Profile, strconv.FormatUint(uint64(f.Build.Layout), 10), f.Build.Go)
	s.send(s.start, seconds(f.StartedAt))
	s.send(s.sweeps, float64(f.Sweeps.Done))
	if f.Sweeps.Done > 0 {
		s.send(s.sweepTime, seconds(f.Sweeps.Last))
		s.send(s.connectionsLive, float64(f.Sweeps.Connections))
	}
}

func (s *scrape) services(f Figures) {
	for _, c := range f.Counters.Services {
		id := number(c.ID)
		s.traffic(s.service, c.Traffic, id)
		for _, b := range c.Backends {
			s.traffic(s.backend, b.Traffic, id, b.Address.String())
		}
	}
	for _, service := range f.Services {
		id := number(service.ID)
		s.send(s.serviceInfo, 1, id, service.Frontend.String(), service.Protocol, service.Mode)
		for _, b := range service.Backends {
			s.send(s.weight, float64(b.Share()), id, b.Address.String())
			for _, state := range []string{"active", "draining", "maintenance"} {
				s.send(s.state, truth(state == b.State || state == "active" && b.State == ""), id, b.Address.String(), state)
			}
			if b.Health != "" {
				s.send(s.healthy, truth(b.Health == "healthy"), id, b.Address.String())
			}
		}
	}
}

func (s *scrape) traffic(t traffic, of api.Traffic, labels ...string) {
	for i, n := range []uint64{of.RxPackets, of.RxBytes, of.TxPackets, of.TxBytes, of.Connections} {
		s.send(t[i], float64(n), labels...)
	}
}

func (s *scrape) health(checks []health.Status) {
	for _, c := range checks {
		id, backend := number(c.Service), c.Backend.String()
		s.send(s.checks, float64(c.Passes), id, backend, "passed")
		s.send(s.checks, float64(c.Failures), id, backend, "failed")
		s.send(s.checks, float64(c.Unclear), id, backend, "inconclusive")
		s.send(s.late, float64(c.Late), id, backend)
		if !c.CheckedAt.IsZero() {
			s.send(s.duration, c.Duration.Seconds(), id, backend)
		}
	}
}

func (s *scrape) dataPath(f Figures) {
	for reason, n := range f.Counters.Drops {
		s.send(s.drops, float64(n), reason)
	}
	for deed, n := range f.ICMP {
		s.send(s.icmp, float64(n), deed)
	}
	s.send(s.suppressed, float64(f.Loss.Suppressed))
	s.send(s.lost, float64(f.Loss.Lost))
	for table, room := range f.Rooms {
		s.send(s.entries, float64(room.Used), table)
		s.send(s.capacity, float64(room.Size), table)
	}
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
