package health

import "l4lab/agent/api"

// The states and healths of api.Backend that matter here.
const (
	stateActive      = "active"
	stateMaintenance = "maintenance"
	healthy          = "healthy"
	quarantined      = "quarantined"
)

// Eligible returns those of a service's backends that get new flows: the active
// ones with a weight that are not quarantined.
//
// Where quarantine would leave none, it is lifted for all of them at once. A
// check that fails everywhere is more often a wrong check, or a fault between the
// balancer and all backends, than the end of every server; a client that is let
// through loses nothing against one that is refused; and keeping only the one that
// failed last would give it the load of all. This holds among the active: a
// draining backend or one in maintenance gets no flow because others are sick.
func Eligible(backends []api.Backend) []api.Backend {
	var well, sick []api.Backend
	for _, b := range backends {
		switch {
		case b.State != "" && b.State != stateActive, b.Weight != nil && *b.Weight == 0:
		case b.Health == quarantined:
			sick = append(sick, b)
		default:
			well = append(well, b)
		}
	}
	if len(well) == 0 {
		return sick
	}
	return well
}
