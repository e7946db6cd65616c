package config

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/invopop/jsonschema"
)

// reference returns the keys of a config file as Markdown: a table for each of its
// parts. docs/agent.md has it.
func reference() (string, error) {
	schema, err := makeSchema()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, t := range types() {
		definition := schema.Definitions[t.Name()]
		switch t.Name() {
		case "Config":
			definition = schema
		case "Backend":
			definition = definition.OneOf[1]
		}
		fmt.Fprintf(&b, "\n**%s**\n\n| key | value | default | |\n| --- | --- | --- | --- |\n", partName(t.Name()))
		for _, f := range format().Fields(t) {
			property, _ := definition.Properties.Get(f.Name)
			description := rules()[t.Name()+"."+t.Field(f.Index).Name].description
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, valueName(property), defaultName(property, rules()[t.Name()+"."+t.Field(f.Index).Name].required), description)
		}
	}
	return b.String(), nil
}

// partName says where a type's keys stand.
func partName(typeName string) string {
	switch typeName {
	case "Config":
		return "The file"
	case "NAT":
		return "`nat`"
	case "Service":
		return "`services[]`"
	case "Backend":
		return "`services[].backends[]`: a text that is the address, or"
	case "HealthCheck":
		return "`services[].healthCheck`"
	}
	return "`" + strings.ToLower(typeName) + "`"
}

func valueName(s *jsonschema.Schema) string {
	switch {
	case len(s.Enum) > 0:
		words := make([]string, len(s.Enum))
		for i, w := range s.Enum {
			words[i] = fmt.Sprint(w)
		}
		return strings.Join(words, ", ")
	case s.Minimum != "" && s.Maximum != "":
		return fmt.Sprintf("%s to %s", s.Minimum, s.Maximum)
	case s.Type == "array":
		return "list"
	case strings.HasPrefix(s.Pattern, "^([0-9.]+"):
		return "ADDRESS:PORT"
	case strings.Contains(s.Pattern, "ns|us"):
		return "duration"
	case s.Format == "date-time":
		return "time"
	case s.Ref != "":
		return "mapping"
	case s.Type == "boolean":
		return "true, false"
	case s.Type == "integer":
		return "number"
	}
	return "text"
}

func defaultName(s *jsonschema.Schema, required bool) string {
	switch {
	case required:
		return "(needed)"
	case s.Default == nil:
		return ""
	}
	text, err := json.Marshal(s.Default)
	if err != nil {
		return ""
	}
	return "`" + strings.Trim(string(text), `"`) + "`"
}
