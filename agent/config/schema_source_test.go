package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/invopop/jsonschema"

	"l4lab/agent/api"
)

// schemaText is what schema.json has to be: made from the Go types, so that the
// two cannot drift.
func schemaText() ([]byte, error) {
	schema, err := makeSchema()
	if err != nil {
		return nil, fmt.Errorf("make the schema of a config: %w", err)
	}
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the schema of a config: %w", err)
	}
	return append(text, '\n'), nil
}

func TestSchemaFileIsWhatTheTypesSay(t *testing.T) {
	want, err := schemaText()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(Schema(), want) {
		return
	}
	if !*update {
		t.Fatal("schema.json is not of these types: run go test ./agent/config -run SchemaFile -update")
	}
	if err := os.WriteFile("schema.json", want, 0o644); err != nil {
		t.Fatal(err)
	}
}

func makeSchema() (*jsonschema.Schema, error) {
	reflector := jsonschema.Reflector{
		Anonymous:                  true,
		ExpandedStruct:             true,
		RequiredFromJSONSchemaTags: true, // none is tagged: the rules say which are
		Mapper:                     scalarSchema,
		LookupComment:              func(t reflect.Type, field string) string { return rules()[t.Name()+"."+field].description },
	}
	root := reflector.Reflect(Config{})
	root.Title = "lbagent config"
	definitions := map[string]*jsonschema.Schema{"Config": root}
	for name, definition := range root.Definitions {
		definitions[name] = definition
	}
	for _, t := range types() {
		definition, ok := definitions[t.Name()]
		if !ok {
			return nil, fmt.Errorf("type %s is not in it", t.Name())
		}
		if err := refine(definition, t); err != nil {
			return nil, err
		}
	}
	// A backend of which only the address is said may be that address.
	backend := root.Definitions["Backend"]
	root.Definitions["Backend"] = &jsonschema.Schema{OneOf: []*jsonschema.Schema{scalarSchema(reflect.TypeFor[netip.AddrPort]()), backend}}
	return root, nil
}

// types are the structs of a config, in the order of the reference.
func types() []reflect.Type {
	return []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[Socket](), reflect.TypeFor[Sizes](), reflect.TypeFor[Lifetimes](),
		reflect.TypeFor[NAT](), reflect.TypeFor[Metrics](), reflect.TypeFor[Log](), reflect.TypeFor[Events](), reflect.TypeFor[Drain](),
		reflect.TypeFor[api.Service](), reflect.TypeFor[api.Backend](), reflect.TypeFor[api.HealthCheck]()}
}

// refine takes out what a file cannot have and applies the rules.
func refine(definition *jsonschema.Schema, t reflect.Type) error {
	seen := map[string]bool{}
	for _, f := range format().Fields(t) {
		name := t.Name() + "." + t.Field(f.Index).Name
		property, ok := definition.Properties.Get(f.Name)
		r, ruled := rules()[name]
		if !ok || !ruled {
			return fmt.Errorf("%s has no property or no rule", name)
		}
		seen[f.Name] = true
		if r.required {
			definition.Required = append(definition.Required, f.Name)
		}
		if r.adjust != nil {
			r.adjust(property)
		}
	}
	for i := range t.NumField() {
		if name := jsonName(t.Field(i)); !seen[name] {
			definition.Properties.Delete(name)
		}
	}
	return nil
}

// scalarSchema describes the types that look like strings in a file.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[netip.Addr]():
		return &jsonschema.Schema{Type: "string", AnyOf: []*jsonschema.Schema{{Format: "ipv4"}, {Format: "ipv6"}}}
	case reflect.TypeFor[netip.Prefix]():
		return &jsonschema.Schema{Type: "string", Pattern: `^[0-9a-fA-F.:]+/[0-9]+$`}
	case reflect.TypeFor[netip.AddrPort]():
		return &jsonschema.Schema{Type: "string", Pattern: `^([0-9.]+|\[[0-9a-fA-F.:]+\]):[0-9]+$`}
	case reflect.TypeFor[api.Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`}
	case reflect.TypeFor[time.Time]():
		return &jsonschema.Schema{Type: "string", Format: "date-time"}
	}
	return nil
}
