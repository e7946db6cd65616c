package topology

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestValidateFindsNothingInTheDefault(t *testing.T) {
	if faults := Validate(Default()); faults != nil {
		t.Error(faults)
	}
}

func TestValidateJudgesValuesWithoutAFile(t *testing.T) {
	faults := Validate(Topology{})
	var paths []string
	for _, f := range faults {
		if f.File != "" || f.Line != 0 {
			t.Errorf("%v has a place", f)
		}
		paths = append(paths, f.Path)
	}
	want := []string{"name", "switch.type", "switch.mtu", "switch.subnet", "client.name", "client.address", "nodes", "services"}
	if !slices.Equal(paths, want) {
		t.Errorf("got %v, want %v", paths, want)
	}
}

func TestValidateAsksForMoreSlotsThanBackends(t *testing.T) {
	top := Default()
	top.Switch.Subnet = netip.MustParsePrefix("20.1.0.0/16")
	var names []string
	for i := range 251 {
		name := fmt.Sprintf("many%d", i)
		names = append(names, name)
		top.Nodes[name] = Node{RoleBackend, Linux, netip.AddrFrom4([4]byte{20, 1, 2, byte(i)})}
	}
	top.Services[0].Backends = names[:250]
	top.Services[0].TableSize = 251
	if faults := Validate(top); faults != nil {
		t.Errorf("250 backends in 251 slots: %v", faults)
	}
	top.Services[0].Backends = names
	if faults := Validate(top); len(faults) != 1 || faults[0].Path != "services[0].tableSize" {
		t.Errorf("251 backends in 251 slots: %v", faults)
	}
}

func TestMarshalRefusesWhatParseWouldRefuse(t *testing.T) {
	top := Default()
	top.Name = "Not A Name"
	if text, err := Marshal(top); err == nil {
		t.Errorf("wrote %s", text)
	}
}

func TestMarshalOrdersNodes(t *testing.T) {
	top := Default()
	top.Nodes["be10"] = Node{RoleBackend, Linux, netip.MustParseAddr("20.1.1.50")}
	text, err := Marshal(top)
	if err != nil {
		t.Fatal(err)
	}
	last := -1
	for _, name := range []string{"lb:", "be1:", "be2:", "be3:", "be4:", "be10:"} {
		at := strings.Index(string(text), "\n  "+name)
		if at <= last {
			t.Errorf("%s is out of order in\n%s", name, text)
		}
		last = at
	}
}

func TestDiff(t *testing.T) {
	cases := map[string]struct {
		change func(*Topology)
		want   []string
	}{
		"nothing changed": {func(*Topology) {}, nil},
		"another order of services' backends": {func(t *Topology) {
			t.Services[0].Backends = []string{"be4", "be3", "be2", "be1"}
		}, nil},
		"the default table size said outright": {func(t *Topology) { t.Services[0].TableSize = 0 }, nil},
		"another MTU":                          {func(t *Topology) { t.Switch.MTU = 9000 }, []string{"switch.mtu: 1500 -> 9000"}},
		"another client address": {func(t *Topology) { t.Client.Address = netip.MustParseAddr("20.1.1.101") },
			[]string{"client.address: 20.1.1.100 -> 20.1.1.101"}},
		"a node moved and changed": {func(t *Topology) {
			t.Nodes["be3"] = Node{RoleBackend, Windows, netip.MustParseAddr("20.1.1.33")}
		}, []string{"nodes.be3.os: linux -> windows", "nodes.be3.address: 20.1.1.30 -> 20.1.1.33"}},
		"a node more and a node less": {func(t *Topology) {
			delete(t.Nodes, "be1")
			t.Nodes["be5"] = Node{RoleBackend, Linux, netip.MustParseAddr("20.1.1.50")}
		}, []string{"nodes.be5: new: backend, linux, 20.1.1.50", "nodes.be1: gone: backend, windows, 20.1.1.10"}},
		"a service in another mode": {func(t *Topology) { t.Services[0].Mode = SNAT }, []string{"services[id=1].mode: dsr -> snat"}},
		"a service with a backend less": {func(t *Topology) { t.Services[0].Backends = []string{"be1", "be2", "be3"} },
			[]string{"services[id=1].backends: [be1, be2, be3, be4] -> [be1, be2, be3]"}},
		"a service under another number": {func(t *Topology) { t.Services[0].ID = 2 }, []string{
			"services[id=2]: new: 40.1.1.1:80/tcp, dsr, [be1, be2, be3, be4]", "services[id=1]: gone: 40.1.1.1:80/tcp, dsr, [be1, be2, be3, be4]"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			changed := Default()
			c.change(&changed)
			var got []string
			for _, change := range Diff(Default(), changed) {
				got = append(got, change.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// The schema and the reader must know the same keys and the same values.
func TestSchemaDescribesWhatParseReads(t *testing.T) {
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	type object struct {
		Properties           map[string]map[string]any `json:"properties"`
		Required             []string                  `json:"required"`
		AdditionalProperties any                       `json:"additionalProperties"`
	}
	var schema struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	objects := map[reflect.Type]object{reflect.TypeFor[Topology](): schema.object}
	for _, typ := range mappings()[1:] {
		objects[typ] = schema.Defs[typ.Name()]
	}
	fields := 0
	for typ, o := range objects {
		if o.AdditionalProperties != false {
			t.Errorf("%s takes unknown keys", typ.Name())
		}
		for _, f := range format().Fields(typ) {
			fields++
			property, ok := o.Properties[f.Name]
			if !ok || property["description"] == nil {
				t.Errorf("%s.%s is missing or has no description: %v", typ.Name(), f.Name, property)
			}
		}
		if len(o.Properties) != typ.NumField() {
			t.Errorf("%s has %d properties, want %d", typ.Name(), len(o.Properties), typ.NumField())
		}
	}
	if len(rules()) != fields {
		t.Errorf("%d rules for %d fields", len(rules()), fields)
	}

	for path, want := range map[string][]any{
		"Node.role": {"loadbalancer", "backend"}, "Node.os": {"linux", "windows"},
		"Service.protocol": {"tcp", "udp"}, "Service.mode": {"dsr", "snat"},
	} {
		typ, name, _ := strings.Cut(path, ".")
		property := schema.Defs[typ].Properties[name]
		if property["type"] != "string" || !reflect.DeepEqual(property["enum"], want) {
			t.Errorf("%s is %v, want a string out of %v", path, property, want)
		}
	}
	if address := schema.Defs["Node"].Properties["address"]; address["type"] != "string" || address["format"] != "ipv4" {
		t.Errorf("an address is %v", address)
	}
	if want := []string{"switch", "client", "nodes", "services"}; !slices.Equal(schema.Required, want) {
		t.Errorf("required at the top: %v, want %v", schema.Required, want)
	}
}

func TestDrawingsNameEveryMachineAndService(t *testing.T) {
	top := Default()
	top.Nodes["web-5"] = Node{RoleBackend, Linux, netip.MustParseAddr("20.1.1.50")}
	top.Services[0].Backends = append(top.Services[0].Backends, "web-5")
	drawings := map[string]struct {
		text  string
		lines []string
	}{
		"Mermaid": {Mermaid(top), []string{
			"flowchart TB",
			`  switch[["internal switch<br/>20.1.1.0/24, MTU 1500"]]`,
			`  m_client(["client<br/>client<br/>20.1.1.100"])`,
			`  m_be3["be3<br/>backend<br/>linux, 20.1.1.30"]`,
			`  switch --- m_web_5`,
			`  s_1{{"service 1<br/>40.1.1.1:80/tcp<br/>dsr"}}`,
			`  m_lb -.- s_1`,
			`  s_1 -.-> m_web_5`,
		}},
		"DOT": {DOT(top), []string{
			`graph "l4lb" {`,
			`  "be3" [label="be3\nbackend\nlinux, 20.1.1.30"];`,
			`  "switch" -- "web-5";`,
			`  "service 1" -- "web-5" [style=dotted, dir=forward];`,
			`}`,
		}},
	}
	for name, d := range drawings {
		lines := strings.Split(d.text, "\n")
		for _, want := range d.lines {
			if !slices.Contains(lines, want) {
				t.Errorf("%s lacks the line %s:\n%s", name, want, d.text)
			}
		}
	}
}
