package topology

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"

	"github.com/invopop/jsonschema"
)

// namePattern is nameProblem's rule without the length.
const namePattern = `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`

// Schema returns the JSON schema of a topology file, for editors and other
// checkers. It is made from the Go types, so that the two cannot drift; what a
// schema cannot say (an address lies in the subnet, …) Validate says.
func Schema() ([]byte, error) {
	reflector := jsonschema.Reflector{
		Anonymous:                  true,
		ExpandedStruct:             true,
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true, // none is tagged: refine says which are
		Mapper:                     scalarSchema,
		LookupComment:              describe,
	}
	schema := reflector.Reflect(Topology{})
	schema.Title = "labctl topology"
	if err := refine(schema); err != nil {
		return nil, fmt.Errorf("make the schema of a topology: %w", err)
	}
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the schema of a topology: %w", err)
	}
	return append(text, '\n'), nil
}

// scalarSchema describes the types that look like strings in a file.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[netip.Addr]():
		return &jsonschema.Schema{Type: "string", Format: "ipv4"}
	case reflect.TypeFor[netip.Prefix]():
		return &jsonschema.Schema{Type: "string", Pattern: `^[0-9]+(\.[0-9]+){3}/[0-9]+$`}
	case reflect.TypeFor[Role]():
		return enum(RoleLoadBalancer, RoleBackend)
	case reflect.TypeFor[OS]():
		return enum(Linux, Windows)
	case reflect.TypeFor[Protocol]():
		return enum(TCP, UDP)
	case reflect.TypeFor[Mode]():
		return enum(DSR, SNAT)
	case reflect.TypeFor[HostAuth]():
		return enum(AuthNTLM, AuthBasic)
	case reflect.TypeFor[Reach]():
		return enum(ReachDirect, ReachSSHJump, ReachPortProxy)
	case reflect.TypeFor[EBPFProfile]():
		return enum(ProfileEFW, ProfileXDP)
	case reflect.TypeFor[PageServer]():
		return enum(PageLBAgent, PageNative)
	case reflect.TypeFor[Loopback]():
		return enum(LoopbackBuiltin, LoopbackKMTest)
	case reflect.TypeFor[Accel]():
		return enum(AccelAuto, AccelKVM, AccelTCG)
	case reflect.TypeFor[Card]():
		return enum(CardE1000, CardVirtio)
	}
	return nil
}

func enum[T ~string](values ...T) *jsonschema.Schema {
	schema := &jsonschema.Schema{Type: "string"}
	for _, v := range values {
		schema.Enum = append(schema.Enum, string(v))
	}
	return schema
}

// rule is what a field's Go type does not say.
type rule struct {
	required    bool
	description string
	adjust      func(*jsonschema.Schema)
}

// rules has one entry for each field, under TYPE.FIELD in Go's names; a test
// compares them with the types.
func rules() map[string]rule {
	isName := func(s *jsonschema.Schema) { s.Pattern, s.MaxLength = namePattern, count(MaxNameLength) }
	rules := map[string]rule{
		"Topology.Name": {false, "The lab's name: lower-case letters and digits, at most 15; default l4lb.", func(s *jsonschema.Schema) {
			s.Pattern, s.MaxLength, s.Default = `^[a-z0-9]+$`, count(MaxNameLength), DefaultName
		}},
		"Topology.Switch": {true, "The one layer-2 segment that joins all machines.", nil},
		"Topology.Client": {true, "The machine that asks the VIP.", nil},
		"Topology.Nodes": {true, "The load balancer and the backends, by name: a DNS label of at most 15 characters.", func(s *jsonschema.Schema) {
			s.PropertyNames = &jsonschema.Schema{Pattern: namePattern, MaxLength: count(MaxNameLength)}
			s.MinProperties = count(2)
		}},
		"Topology.Services": {true, "What the load balancer announces.", func(s *jsonschema.Schema) { s.MinItems = count(1) }},
		"Switch.Type": {false, "internal: the switch has no way out of the lab.", func(s *jsonschema.Schema) {
			s.Enum, s.Default = []any{DefaultSwitchType}, DefaultSwitchType
		}},
		"Switch.Subnet": {true, "The machines' IPv4 subnet, /8 to /29, without host bits: 20.1.1.0/24.", nil},
		"Switch.MTU": {false, "Bytes of IP that every interface of the lab takes; default 1500.", func(s *jsonschema.Schema) {
			between(s, MinMTU, MaxMTU)
			s.Default = DefaultMTU
		}},
		"Client.Name": {false, "The client's name; default client.", func(s *jsonschema.Schema) {
			isName(s)
			s.Default = DefaultClientName
		}},
		"Client.Address": {true, "The client's address in the subnet.", nil},
		"Node.Role":      {true, "The node's job; a lab has exactly one loadbalancer.", nil},
		"Node.OS":        {false, "The operating system; default linux.", func(s *jsonschema.Schema) { s.Default = string(DefaultOS) }},
		"Node.Address":   {true, "The node's address in the subnet.", nil},
		"Service.ID":     {true, "The service's number, unique in the lab.", func(s *jsonschema.Schema) { between(s, 1, MaxServiceID) }},
		"Service.VIP":    {true, "The virtual address, outside the subnet.", nil},
		"Service.Port":   {true, "The port of the VIP and of the backends.", func(s *jsonschema.Schema) { between(s, 1, 65535) }},
		"Service.Protocol": {false, "The transport; default tcp.", func(s *jsonschema.Schema) {
			s.Default = string(DefaultProtocol)
		}},
		"Service.Mode": {false, "How packets reach a backend and come back; default dsr.", func(s *jsonschema.Schema) {
			s.Default = string(DefaultMode)
		}},
		"Service.TableSize": {false, "Slots of the Maglev table; default 16381.", func(s *jsonschema.Schema) {
			for _, size := range TableSizes() {
				s.Enum = append(s.Enum, size)
			}
			s.Default = DefaultTableSize
		}},
		"Service.Backends": {true, "Names of nodes whose role is backend.", func(s *jsonschema.Schema) {
			s.MinItems, s.UniqueItems = count(1), true
		}},
		"Topology.Providers": {false, "What the provider of the lab's machines must be told besides.", nil},
	}
	maps.Copy(rules, hypervRules())
	maps.Copy(rules, qemuRules())
	return rules
}

// mappings are the types that stand for mappings in a file.
func mappings() []reflect.Type {
	return []reflect.Type{
		reflect.TypeFor[Topology](), reflect.TypeFor[Switch](), reflect.TypeFor[Client](), reflect.TypeFor[Node](), reflect.TypeFor[Service](),
		reflect.TypeFor[Providers](), reflect.TypeFor[HyperV](), reflect.TypeFor[HyperVHost](), reflect.TypeFor[Credential](),
		reflect.TypeFor[HyperVImages](), reflect.TypeFor[HyperVImage](), reflect.TypeFor[EBPF](),
		reflect.TypeFor[QEMU](), reflect.TypeFor[QEMUImages](), reflect.TypeFor[QEMUWindows](),
	}
}

func count(n uint64) *uint64 { return &n }

func between(s *jsonschema.Schema, low, high int) {
	s.Minimum, s.Maximum = json.Number(fmt.Sprint(low)), json.Number(fmt.Sprint(high))
}

// describe is jsonschema's hook for descriptions.
func describe(t reflect.Type, field string) string { return rules()[t.Name()+"."+field].description }

// refine applies rules to the reflected schema.
func refine(root *jsonschema.Schema) error {
	definitions := map[string]*jsonschema.Schema{"Topology": root}
	for name, definition := range root.Definitions {
		definitions[name] = definition
	}
	for _, t := range mappings() {
		definition, ok := definitions[t.Name()]
		if !ok {
			return fmt.Errorf("type %s is not in it", t.Name())
		}
		for i, f := range format().Fields(t) {
			property, ok := definition.Properties.Get(f.Name)
			r, ruled := rules()[t.Name()+"."+t.Field(i).Name]
			if !ok || !ruled {
				return fmt.Errorf("%s.%s has no property or no rule", t.Name(), t.Field(i).Name)
			}
			if r.required {
				definition.Required = append(definition.Required, f.Name)
			}
			if r.adjust != nil {
				r.adjust(property)
			}
		}
	}
	return nil
}
