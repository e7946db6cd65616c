package config

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/strictyaml"
)

func parse(t *testing.T, text string) (*File, strictyaml.Faults) {
	t.Helper()
	f, err := Parse("lb.yaml", []byte(text), nil)
	var faults strictyaml.Faults
	if err != nil && !errors.As(err, &faults) {
		t.Fatalf("not faults: %v", err)
	}
	return f, faults
}

func TestExampleLoadsAndShowsEveryKey(t *testing.T) {
	f, faults := parse(t, string(Example()))
	if faults != nil {
		t.Fatal(faults)
	}
	if len(f.Services) != 3 || f.Services[1].Backends[0].Share() != 3 || f.Interface != "eth0" {
		t.Errorf("got %+v", f.Config)
	}
	absent := []string{"generic", "image", "profile", "group", "drainUntil", "port"}
	for name := range rules() {
		owner, field, _ := strings.Cut(name, ".")
		for _, typ := range types() {
			if typ.Name() != owner {
				continue
			}
			goField, _ := typ.FieldByName(field)
			key := jsonName(goField)
			if !strings.Contains(string(Example()), key+":") && !slices.Contains(absent, key) {
				t.Errorf("%s is not shown", name)
			}
		}
	}
	want := Default()
	got := f.Config
	if got.Lifetimes != want.Lifetimes || got.NAT != want.NAT || got.Log != want.Log || got.Events != want.Events || got.Sizes != want.Sizes {
		t.Errorf("the example's defaults are not the defaults: %+v", got)
	}
}

func TestFileThatSaysNothingHasTheDefaults(t *testing.T) {
	f, faults := parse(t, "interface: eth0\n")
	want := Default()
	want.Interface = "eth0"
	if faults != nil || !reflect.DeepEqual(f.Config, want) || f.Services != nil {
		t.Errorf("got %+v, %v", f, faults)
	}
	f, faults = parse(t, "interface: eth0\nservices: []\n")
	if faults != nil || f.Services == nil {
		t.Errorf("no service is not the same as nothing said of services: %+v, %v", f, faults)
	}
}

func TestFaultsHavePathLineAndColumn(t *testing.T) {
	for _, c := range []struct {
		name, text string
		faults     []string
	}{
		{"an unknown key", "interface: eth0\ninterfce: eth1\n", []string{`lb.yaml:2:1: interfce: unknown key, did you mean "interface"?`}},
		{"a key twice", "interface: eth0\ninterface: eth1\n", []string{"lb.yaml:2:1: interface: duplicate key"}},
		{"no interface", "mode: dsr\n", []string{"lb.yaml:1:1: interface: is missing"}},
		{"all at once", "interface: eth0\nmode: nat\nsizes: {services: -1}\nnat:\n  minPort: 80\nlog:\n  level: loud\n",
			[]string{"lb.yaml:2:7: mode: unknown value", `lb.yaml:3:19: sizes.services: "-1" is out of range`, "lb.yaml:5:12: nat.minPort: is 80", "lb.yaml:7:10: log.level: unknown value"}},
		{"an empty pool", "interface: eth0\nnat: {minPort: 40000, maxPort: 39999}\n", []string{"lb.yaml:2:32: nat.maxPort: is 39999, and minPort 40000: the pool is empty"}},
		{"a policy for VLAN tags that is none", "interface: eth0\nvlan: dorp\n", []string{`lb.yaml:2:7: vlan: unknown value "dorp"; known are pass, drop`}},
		{"a lifetime of nothing", "interface: eth0\nlifetimes: {tcpSyn: 0s}\n", []string{"lb.yaml:2:21: lifetimes.tcpSyn: is 0s"}},
		{"a duration without a unit", "interface: eth0\ndrain: {deadline: 30}\n", []string{`lb.yaml:2:19: drain.deadline: is the number "30": expected a duration like 30s or 1h30m`}},
		{"metrics for everybody", "interface: eth0\nmetrics: {listen: 0.0.0.0:9810}\n", []string{"lb.yaml:2:19: metrics.listen: 0.0.0.0:9810 is not a loopback address"}},
		{"two addresses of a family", "interface: eth0\naddresses: [20.1.1.1, 20.1.1.2]\n", []string{"lb.yaml:2:23: addresses[1]: 20.1.1.2 and addresses[0] are of one family"}},
		{"a truth that is none", "interface: eth0\ngeneric: 1\n", []string{`lb.yaml:2:10: generic: is the number "1": expected true or false`}},
		{"what only the API says", "interface: eth0\nservices:\n- {id: 1, frontend: 40.1.1.1:80, revision: 3, backends: [{address: 20.1.1.10:80, health: healthy}]}\n",
			[]string{"lb.yaml:3:34: services[0].revision: unknown key", "lb.yaml:3:82: services[0].backends[0].health: unknown key"}},
		{"services", "interface: eth0\naddresses: [20.1.1.1]\nservices:\n- id: 1\n  frontend: 40.1.1.1:80\n  backends: [20.1.1.10:80, 20.1.1.10:80, x]\n- id: 1\n  frontend: 40.1.1.2:80\n  backends:\n  - address: 20.1.1.1:80\n    weight: 2000\n- id: 3\n  frontend: 40.1.1.1:80\n  backends: []\n",
			[]string{"lb.yaml:6:28: services[0].backends[1]: 20.1.1.10:80 is backends[0] already", `lb.yaml:6:42: services[0].backends[2]: "x" is not ADDRESS:PORT`, "lb.yaml:7:7: services[1].id: 1 is services[0]'s already", "lb.yaml:11:13: services[1].backends[0].weight: is 2000", "lb.yaml:13:13: services[2].frontend: 40.1.1.1:80/tcp is service 1's", "lb.yaml:14:13: services[2].backends: none given"}},
		{"more services than there is room for", "interface: eth0\nsizes: {services: 1}\nservices:\n- {id: 1, frontend: 40.1.1.1:80, backends: [20.1.1.10:80]}\n- {id: 2, frontend: 40.1.1.2:80, backends: [20.1.1.10:80]}\n",
			[]string{"lb.yaml:4:1: services: 2 services in all, but the balancer has room for 1"}},
		{"no mapping", "- eth0\n", []string{"lb.yaml:1:1: is a list: expected a mapping"}},
		{"nothing", "", []string{"is empty (0 bytes); `lbagent config example` prints one"}},
		{"an anchor", "interface: &a eth0\n", []string{"lb.yaml:1:12: anchors"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, faults := parse(t, c.text)
			for i, want := range c.faults {
				if i >= len(faults) || !strings.Contains(faults[i].String(), want) {
					t.Errorf("fault %d: want %s", i, want)
				}
			}
			if len(faults) != len(c.faults) || t.Failed() {
				t.Errorf("all faults:\n%v", faults)
			}
		})
	}
}

func TestOverridesAreJudgedInsteadOfWhatTheyOverride(t *testing.T) {
	f, err := Parse("lb.yaml", []byte("mode: nat\n"), func(c *Config) { c.Interface, c.Mode = "eth7", "snat" })
	if err != nil || f.Interface != "eth7" || f.Mode != "snat" {
		t.Errorf("got %+v, %v", f, err)
	}
}

func TestMissingFileSaysWhereToGetOne(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil)
	var coded interface{ ExitCode() int }
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "lbagent config example") || !errors.As(err, &coded) || coded.ExitCode() != 2 {
		t.Errorf("got %v", err)
	}
}

func TestRefusalOfTheAgentGetsItsLine(t *testing.T) {
	f, faults := parse(t, "interface: eth0\nservices:\n- id: 1\n  frontend: 40.1.1.1:80\n  backends: [20.1.1.10:80]\n")
	if faults != nil {
		t.Fatal(faults)
	}
	err := f.Explain(&api.Error{Field: "services[0].frontend", Message: "is the balancer's own"})
	if err.Error() != "lb.yaml:4:13: services[0].frontend: is the balancer's own" {
		t.Errorf("got %v", err)
	}
	plain := errors.New("no memory")
	if got := f.Explain(plain); !errors.Is(got, plain) {
		t.Errorf("got %v", got)
	}
}

func TestRestartNamesWhatIsReadAtTheStartOnly(t *testing.T) {
	a := Default()
	b := a
	b.Interface, b.PinDir, b.Socket.Group, b.Sizes.Services, b.Log.Format = "eth1", "/x", "lb", 5, "json"
	b.VLAN = "drop"
	b.Mode, b.NAT.MinPort, b.Log.Level, b.Services, b.Events.Rate, b.Lifetimes.NonTCP = "snat", 40000, "debug", []api.Service{}, 5, api.Duration(time.Minute*2)
	want := []string{"interface", "socket", "pinDir", "sizes", "log.format"}
	if got := Restart(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Restart(a, a); got != nil {
		t.Errorf("nothing changed: %v", got)
	}
}

func TestSchemaDescribesEveryKeyAndNoOther(t *testing.T) {
	text := Schema()
	type object struct {
		Properties           map[string]map[string]any
		AdditionalProperties any
		OneOf                []object
	}
	var schema struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	fields := 0
	for _, typ := range types() {
		o := schema.Defs[typ.Name()]
		switch typ.Name() {
		case "Config":
			o = schema.object
		case "Backend":
			o = o.OneOf[1]
		}
		if o.AdditionalProperties != false {
			t.Errorf("%s takes unknown keys", typ.Name())
		}
		known := format().Fields(typ)
		for _, f := range known {
			fields++
			if p, ok := o.Properties[f.Name]; !ok || p["description"] == nil {
				t.Errorf("%s.%s is missing or has no description: %v", typ.Name(), f.Name, p)
			}
		}
		if len(o.Properties) != len(known) {
			t.Errorf("%s has %d properties, want %d", typ.Name(), len(o.Properties), len(known))
		}
	}
	if len(rules()) != fields {
		t.Errorf("%d rules for %d fields", len(rules()), fields)
	}
}
