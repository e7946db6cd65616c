package config

import (
	"encoding/json"
	"fmt"
	"testing"
)

// An editor that goes by the schema and the agent must not be of two minds.
func TestBoundsOfTheSchemaAreTheAgents(t *testing.T) {
	text := Schema()
	type object struct {
		Properties map[string]struct{ Minimum, Maximum *int64 }
		OneOf      []object
	}
	var schema struct {
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	const (
		service = "services: [{id: 1, frontend: '40.1.1.1:80', backends: ['20.1.1.10:80']%s}]"
		backend = "services: [{id: 1, frontend: '40.1.1.1:80', backends: [{address: '20.1.1.10:80', weight: %d}]}]"
	)
	in := func(format, more string) string { return fmt.Sprintf(format, more) }
	files := map[string]string{
		"HealthCheck.port":   in(service, ", healthCheck: {type: tcp, port: %d}"),
		"HealthCheck.status": in(service, ", healthCheck: {type: http, status: %d}"),
		"HealthCheck.rise":   in(service, ", healthCheck: {type: tcp, rise: %d}"),
		"HealthCheck.fall":   in(service, ", healthCheck: {type: tcp, fall: %d}"),
		"Service.mss":        in(service, ", mss: %d"),
		"Service.id":         "services: [{id: %d, frontend: '40.1.1.1:80', backends: ['20.1.1.10:80']}]",
		"Backend.weight":     backend,
		"Sizes.connections":  "sizes: {connections: %d}",
		"Sizes.services":     "sizes: {services: %d}",
		"Sizes.backends":     "sizes: {backends: %d}",
		"Sizes.sources":      "sizes: {sources: %d}",
		"NAT.minPort":        "nat: {minPort: %d}",
		"NAT.maxPort":        "nat: {minPort: 1024, maxPort: %d}",
		"Events.rate":        "events: {rate: %d}",
	}
	bounded := 0
	for name, o := range schema.Defs {
		if name == "Backend" {
			o = o.OneOf[1]
		}
		for key, property := range o.Properties {
			if property.Minimum == nil || property.Maximum == nil {
				continue
			}
			bounded++
			file, ok := files[name+"."+key]
			if !ok {
				t.Errorf("%s.%s has bounds and is not tried", name, key)
				continue
			}
			for value, fine := range map[int64]bool{*property.Minimum: true, *property.Maximum: true, *property.Minimum - 1: false, *property.Maximum + 1: false} {
				_, err := Parse("lb.yaml", fmt.Appendf(nil, "interface: eth0\n"+file+"\n", value), nil)
				if (err == nil) != fine {
					t.Errorf("%s.%s of %d: the agent says %v", name, key, value, err)
				}
			}
		}
	}
	if bounded != len(files) {
		t.Errorf("%d keys have bounds, want %d", bounded, len(files))
	}
}
