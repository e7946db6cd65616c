package service

import (
	"reflect"
	"slices"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
)

// keep fills in what a request leaves open from what the service has: who
// changes its backends does not mean to change its mode.
func keep(s, has api.Service) api.Service {
	for _, field := range []struct {
		value *string
		has   string
	}{
		{&s.Protocol, has.Protocol}, {&s.Mode, has.Mode}, {&s.Encap, has.Encap}, {&s.Selection, has.Selection},
	} {
		if *field.value == "" {
			*field.value = field.has
		}
	}
	if s.TableSize == 0 {
		s.TableSize = has.TableSize
	}
	return s
}

// The values of api.Service.Selection.
const (
	selectMaglev = "maglev"
	selectRandom = "random"
)

// complete fills in the defaults, so that two services that mean the same are
// equal. It shares nothing that the caller may change later.
func complete(s api.Service, mode string) api.Service {
	for _, field := range []struct {
		value    *string
		fallback string
	}{
		{&s.Protocol, datapath.TCP.String()}, {&s.Mode, mode},
		{&s.Encap, datapath.IPIP.String()}, {&s.Selection, selectMaglev},
	} {
		if *field.value == "" {
			*field.value = field.fallback
		}
	}
	if s.TableSize == 0 {
		s.TableSize = maglev.DefaultSize
	}
	s.Sources = slices.Clone(s.Sources)
	if len(s.Sources) == 0 {
		s.Sources = nil
	}
	s.Backends = slices.Clone(s.Backends)
	for i := range s.Backends {
		s.Backends[i] = completeBackend(s.Backends[i])
	}
	if s.HealthCheck != nil {
		check := *s.HealthCheck
		s.HealthCheck = &check
	}
	return s
}

// completeBackend leaves out what means the same as nothing: there may be many backends.
func completeBackend(b api.Backend) api.Backend {
	b.Health = ""
	if b.State == datapath.Active.String() {
		b.State = ""
	}
	if b.Weight != nil {
		if weight := *b.Weight; weight == 1 {
			b.Weight = nil
		} else {
			b.Weight = &weight
		}
	}
	if b.DrainUntil != nil {
		until := b.DrainUntil.Round(0).UTC()
		b.DrainUntil = &until
	}
	return b
}

// equal says whether two complete services are the same but for their revisions.
func equal(a, b api.Service) bool {
	a.Revision, b.Revision = 0, 0
	return reflect.DeepEqual(a, b)
}
