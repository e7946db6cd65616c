package topology

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// demo is the default file without its comments.
const demo = `name: l4lb
switch: {type: internal, subnet: 20.1.1.0/24, mtu: 1500}
client: {name: client, address: 20.1.1.100}
nodes:
  lb:  {role: loadbalancer, os: windows, address: 20.1.1.1}
  be1: {role: backend, os: windows, address: 20.1.1.10}
  be2: {role: backend, os: windows, address: 20.1.1.20}
  be3: {role: backend, os: linux, address: 20.1.1.30}
  be4: {role: backend, os: linux, address: 20.1.1.40}
services:
  - {id: 1, vip: 40.1.1.1, port: 80, protocol: tcp, mode: dsr, backends: [be1, be2, be3, be4]}
`

// changed returns the demo with one piece of text replaced.
func changed(t testing.TB, old, new string) string {
	t.Helper()
	if strings.Count(demo, old) != 1 {
		t.Fatalf("%q stands %d times in the demo, want once", old, strings.Count(demo, old))
	}
	return strings.Replace(demo, old, new, 1)
}

// cursor takes the one ‸ out of a text and says on which line and column it stood.
func cursor(t testing.TB, text string) (without string, line, column int) {
	t.Helper()
	before, after, found := strings.Cut(text, "‸")
	if !found || strings.Contains(after, "‸") {
		t.Fatalf("want one ‸ in:\n%s", text)
	}
	lastLine := before[strings.LastIndex(before, "\n")+1:]
	return before + after, 1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(lastLine)
}

// faultsOf parses text that must be refused.
func faultsOf(t testing.TB, text string) Faults {
	t.Helper()
	parsed, err := Parse("lab.yaml", []byte(text))
	var faults Faults
	if !errors.As(err, &faults) || len(faults) == 0 {
		t.Fatalf("Parse gave %v, %v; want Faults for:\n%s", parsed, err, text)
	}
	return faults
}

func TestDefaultIsTheDemo(t *testing.T) {
	d := Default()
	if d.Name != "l4lb" || d.LoadBalancer() != "lb" {
		t.Errorf("name %q, load balancer %q", d.Name, d.LoadBalancer())
	}
	want := map[string]string{
		"lb": "windows 20.1.1.1", "be1": "windows 20.1.1.10", "be2": "windows 20.1.1.20",
		"be3": "linux 20.1.1.30", "be4": "linux 20.1.1.40",
	}
	got := map[string]string{}
	for name, n := range d.Nodes {
		got[name] = fmt.Sprintf("%s %s", n.OS, n.Address)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("nodes %v, want %v", got, want)
	}
	s := d.Services[0]
	if s.ID != 1 || s.Frontend().String() != "40.1.1.1:80" || s.Protocol != TCP || s.Mode != DSR || len(s.Backends) != 4 {
		t.Errorf("service %+v", s)
	}
}

func TestParseFillsWhatTheFileLeavesOut(t *testing.T) {
	got, err := Parse("lab.yaml", []byte(`
switch: {subnet: 10.0.0.0/8}
client: {address: 10.0.0.3}
nodes:
  a: {role: loadbalancer, address: 10.0.0.1}
  b: {role: backend, address: 10.0.0.2}
services:
  - {id: 1, vip: 40.1.1.1, port: 80, backends: [b]}
`))
	if err != nil {
		t.Fatal(err)
	}
	text, err := Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	want := `name: l4lb
switch: {type: internal, subnet: 10.0.0.0/8, mtu: 1500}
client: {name: client, address: 10.0.0.3}
nodes:
  a: {role: loadbalancer, os: linux, address: 10.0.0.1}
  b: {role: backend, os: linux, address: 10.0.0.2}
services:
  - {id: 1, vip: 40.1.1.1, port: 80, protocol: tcp, mode: dsr, backends: [b]}
`
	if string(text) != want {
		t.Errorf("got:\n%swant:\n%s", text, want)
	}
	if got.Services[0].TableSize != DefaultTableSize {
		t.Errorf("table size %d", got.Services[0].TableSize)
	}
}

func TestParseAccepts(t *testing.T) {
	asJSON := `{"switch": {"subnet": "20.1.1.0/24"}, "client": {"address": "20.1.1.9"},
 "nodes": {"lb": {"role": "loadbalancer", "address": "20.1.1.1"}, "b": {"role": "backend", "address": "20.1.1.2"}},
 "services": [{"id": 1, "vip": "40.1.1.1", "port": 80, "backends": ["b"]}]}`
	cases := map[string]string{
		"the default file":                        string(defaultYAML),
		"a byte order mark":                       "\xef\xbb\xbf" + string(defaultYAML),
		"carriage returns":                        strings.ReplaceAll(string(defaultYAML), "\n", "\r\n"),
		"a document marker":                       "---\n" + string(defaultYAML),
		"an end marker":                           string(defaultYAML) + "...\n",
		"JSON":                                    asJSON,
		"nested blocks instead of braces":         changed(t, "switch: {type: internal, subnet: 20.1.1.0/24, mtu: 1500}", "switch:\n  type: internal\n  subnet: 20.1.1.0/24\n  mtu: 576"),
		"TCP and UDP on one port":                 string(defaultYAML) + "  - {id: 2, vip: 40.1.1.1, port: 80, protocol: udp, backends: [be1]}\n",
		"two ports of one VIP":                    string(defaultYAML) + "  - {id: 2, vip: 40.1.1.1, port: 81, backends: [be1]}\n",
		"the largest service id":                  changed(t, "id: 1,", "id: 2147483647,"),
		"the largest MTU":                         changed(t, "mtu: 1500", "mtu: 9000"),
		"a table of another size":                 changed(t, "mode: dsr, backends", "mode: dsr, tableSize: 251, backends"),
		"a quoted name that looks like a number":  strings.NewReplacer("be1:", `"1":`, "be1,", `"1",`).Replace(string(defaultYAML)),
		"a quoted name that looks like a boolean": strings.NewReplacer("be1:", `"true":`, "be1,", `"true",`).Replace(string(defaultYAML)),
		"names of 15 characters":                  strings.NewReplacer("name: l4lb", "name: abcdefghijklmno", "be1:", "abcdefghij-lmno:", "be1,", "abcdefghij-lmno,").Replace(string(defaultYAML)),
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			parsed, err := Parse("lab.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, parsed)
		})
	}
}

// roundTrip fails unless Marshal's text parses to the same value.
func roundTrip(t testing.TB, want Topology) {
	t.Helper()
	text, err := Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("again.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v\nwant %+v\ntext:\n%s", got, want, text)
	}
}

// Each case replaces one text of the demo and names a fault that must come of
// it; ‸ marks where an editor would put the cursor for it.
func TestParseRefuses(t *testing.T) {
	cases := map[string]struct{ old, new, want string }{
		"an unknown key at the top": {"name: l4lb", "name: l4lb\n‸swich: 1",
			`swich: unknown key, did you mean "switch"?; known are name, switch, client, nodes, services, providers`},
		"an unknown key of a node": {"be3: {role: backend, os", "be3: {role: backend, ‸oz",
			`nodes.be3.oz: unknown key, did you mean "os"?; known are role, os, address`},
		"a duplicate key at the top": {"name: l4lb", "name: l4lb\n‸name: l4lc",
			`name: duplicate key: it is already on line 1`},
		"a duplicate node": {"  be4:", "  ‸be3:",
			`nodes.be3: duplicate key: it is already on line 8`},
		"a duplicate key of a node": {"be3: {role: backend", "be3: {role: backend, ‸role: backend",
			`nodes.be3.role: duplicate key: it is already on line 8`},
		"a number for a name": {"name: l4lb", "name: ‸1234",
			`name: is the number "1234": expected a text (put it in quotes if it is one)`},
		"a number for a node's name": {"  be4:", "  ‸4:",
			`nodes.4: the key is the number "4": put it in quotes if it is a name`},
		"a text for a port": {"port: 80", "port: ‸http",
			`services[0].port: is the text "http": expected a number from 0 to 65535`},
		"a port of 65536": {"port: 80", "port: ‸65536",
			`services[0].port: "65536" is out of range: expected a number from 0 to 65535`},
		"a negative port": {"port: 80", "port: ‸-1",
			`services[0].port: "-1" is out of range: expected a number from 0 to 65535`},
		"port 0": {"port: 80", "port: ‸0",
			`services[0].port: is not between 1 and 65535`},
		"a fraction for a port": {"port: 80", "port: ‸80.5",
			`services[0].port: is the number "80.5": expected a number from 0 to 65535`},
		"a list for a switch": {"{type: internal, subnet: 20.1.1.0/24, mtu: 1500}", "‸[internal]",
			`switch: is a list: expected a mapping (key: value)`},
		"a text for the backends": {"[be1, be2, be3, be4]", "‸be1",
			`services[0].backends: is the text "be1": expected a list [a, b]`},
		"a name without a value": {"name: l4lb", "‸name:",
			`name: has no value: expected a text`},
		"a broken address": {"20.1.1.30", "‸20.1.1.300",
			`nodes.be3.address: "20.1.1.300" is not an address like 20.1.1.10`},
		"a missing address": {"be3: {role: backend, os: linux, address: 20.1.1.30", "‸be3: {role: backend, os: linux",
			`nodes.be3.address: is missing`},
		"a broken subnet": {"20.1.1.0/24", "‸20.1.1.0/33",
			`switch.subnet: "20.1.1.0/33" is not a subnet like 20.1.1.0/24`},
		"a subnet with host bits": {"20.1.1.0/24", "‸20.1.1.7/24",
			`switch.subnet: 20.1.1.7/24 has host bits: the subnet is 20.1.1.0/24`},
		"a subnet that is too small": {"20.1.1.0/24", "‸20.1.1.0/30",
			`switch.subnet: 20.1.1.0/30: the prefix length is not between 8 and 29`},
		"a loopback subnet": {"20.1.1.0/24", "‸127.0.0.0/24",
			`switch.subnet: 127.0.0.0/24 is loopback`},
		"an address outside the subnet": {"20.1.1.30", "‸20.1.2.30",
			`nodes.be3.address: 20.1.2.30 is not in the subnet 20.1.1.0/24`},
		"the network address": {"20.1.1.30", "‸20.1.1.0",
			`nodes.be3.address: 20.1.1.0 is the network address of 20.1.1.0/24: no machine can have it`},
		"the broadcast address": {"20.1.1.30", "‸20.1.1.255",
			`nodes.be3.address: 20.1.1.255 is the broadcast address of 20.1.1.0/24: no machine can have it`},
		"an address that another node has": {"20.1.1.30", "‸20.1.1.20",
			`nodes.be3.address: 20.1.1.20 is the address of nodes.be2 already`},
		"an address that the client has": {"20.1.1.30", "‸20.1.1.100",
			`nodes.be3.address: 20.1.1.100 is the address of client already`},
		"an IPv6 address": {"20.1.1.30", "‸fd00::1",
			`nodes.be3.address: fd00::1 is not IPv4`},
		"a node's name in capitals": {"  be4:", "  ‸BE4:",
			`nodes.BE4: "BE4" is no DNS label: a name has lower-case letters a-z, digits, and hyphens neither first nor last`},
		"a node's name of 16 characters": {"  be4:", "  ‸abcdefghijklmnop:",
			`nodes.abcdefghijklmnop: "abcdefghijklmnop" has more than 15 characters`},
		"a reserved node name": {"  be4:", "  ‸br0:",
			`nodes.br0: "br0" is reserved: switch, br0, lo, all, default cannot name machines`},
		"a client with a node's name": {"client: {name: client,", "client: {name: ‸be4,",
			`client.name: "be4" is a node's name, too: every machine has a name of its own`},
		"a lab name with a hyphen": {"name: l4lb", "name: ‸my-lab",
			`name: "my-lab" has a hyphen: a lab's name has none, since the hyphen in LAB-NODE separates the two`},
		"a lab name with a slash": {"name: l4lb", "name: ‸../etc",
			`name: "../etc" is no DNS label: a name has lower-case letters a-z, digits, and hyphens neither first nor last`},
		"an empty lab name": {"name: l4lb", `name: ‸""`,
			`name: is empty: a name has 1 to 15 characters`},
		"a second load balancer": {"be3: {role: backend", "be3: {role: ‸loadbalancer",
			`nodes.be3.role: a second load balancer: lb is one already, and a lab has exactly one`},
		"no load balancer": {"lb:  {role: loadbalancer", "‸lb:  {role: backend",
			`nodes: no node has the role loadbalancer: a lab has exactly one`},
		"an unknown role": {"role: loadbalancer", "role: ‸router",
			`nodes.lb.role: unknown role "router"; allowed are loadbalancer, backend`},
		"the client's role": {"role: loadbalancer", "role: ‸client",
			"nodes.lb.role: the client is not among the nodes: it stands under `client`"},
		"an unknown os": {"be3: {role: backend, os: linux", "be3: {role: backend, os: ‸plan9",
			`nodes.be3.os: unknown os "plan9"; allowed are linux, windows`},
		"an unknown mode": {"mode: dsr,", "mode: ‸nat,",
			`services[0].mode: unknown mode "nat"; allowed are dsr, snat`},
		"an unknown protocol": {"protocol: tcp", "protocol: ‸sctp",
			`services[0].protocol: unknown protocol "sctp"; allowed are tcp, udp`},
		"an unknown kind of switch": {"type: internal", "type: ‸external",
			`switch.type: unknown type "external"; allowed is internal`},
		"an MTU that is too small": {"mtu: 1500", "mtu: ‸575",
			`switch.mtu: 575 is not between 576 and 9000`},
		"an MTU of 0, which is no default": {"mtu: 1500", "mtu: ‸0",
			`switch.mtu: 0 is not between 576 and 9000`},
		"a VIP in the subnet": {"vip: 40.1.1.1,", "vip: ‸20.1.1.77,",
			`services[0].vip: 20.1.1.77 is in the switch's subnet 20.1.1.0/24: the client would look for it with ARP instead of sending to the load balancer; take an address outside`},
		"a VIP that is a node's address": {"vip: 40.1.1.1,", "vip: ‸20.1.1.10,",
			`services[0].vip: 20.1.1.10 is the address of nodes.be1: a VIP belongs to no machine, each backend answers in its name`},
		"a multicast VIP": {"vip: 40.1.1.1,", "vip: ‸224.0.0.5,",
			`services[0].vip: 224.0.0.5 is multicast`},
		"a loopback VIP": {"vip: 40.1.1.1,", "vip: ‸127.0.0.5,",
			`services[0].vip: 127.0.0.5 is loopback`},
		"an unspecified VIP": {"vip: 40.1.1.1,", "vip: ‸0.0.0.0,",
			`services[0].vip: 0.0.0.0 is in 0.0.0.0/8, which stands for no host (RFC 1122)`},
		"a broadcast VIP": {"vip: 40.1.1.1,", "vip: ‸255.255.255.255,",
			`services[0].vip: 255.255.255.255 is the limited broadcast address`},
		"an IPv6 VIP": {"vip: 40.1.1.1,", "vip: ‸fd00::1,",
			`services[0].vip: fd00::1 is not IPv4`},
		"an unknown node in a service": {"[be1, be2, be3, be4]", "[be1, be2, be3, ‸bee4]",
			`services[0].backends[3]: unknown node "bee4", did you mean "be4"?`},
		"the load balancer as a backend": {"[be1, be2, be3, be4]", "[be1, ‸lb]",
			`services[0].backends[1]: "lb" is the load balancer, not a backend`},
		"the client as a backend": {"[be1, be2, be3, be4]", "[be1, ‸client]",
			`services[0].backends[1]: "client" is the client, not a backend`},
		"a backend named twice": {"[be1, be2, be3, be4]", "[be1, be2, ‸be1]",
			`services[0].backends[2]: "be1" is named twice: it is backends[0] already`},
		"a service without backends": {"[be1, be2, be3, be4]", "‸[]",
			`services[0].backends: there are none: a service has at least one backend`},
		"a service whose backends are left out": {"{id: 1, vip: 40.1.1.1, port: 80, protocol: tcp, mode: dsr, backends: [be1, be2, be3, be4]}", "‸{id: 1, vip: 40.1.1.1, port: 80}",
			`services[0].backends: there are none: a service has at least one backend`},
		"service id 0": {"id: 1,", "id: ‸0,",
			`services[0].id: 0 is not between 1 and 2147483647`},
		"a service id that is too large": {"id: 1,", "id: ‸2147483648,",
			`services[0].id: 2147483648 is not between 1 and 2147483647`},
		"a table size that is no prime of Cilium's": {"mode: dsr, backends", "mode: dsr, tableSize: ‸1000, backends",
			`services[0].tableSize: 1000 is no size of a Maglev table; allowed are [251 509 1021 2039 4093 8191 16381 32749 65521 131071]`},
		"an anchor": {"{type: internal", "‸&s {type: internal",
			`anchors, aliases and merge keys are not supported: write the value out`},
		"a merge key": {"type: internal", "‸<<: internal",
			`anchors, aliases and merge keys are not supported: write the value out`},
		"a tag": {"mtu: 1500", "mtu: ‸!!int 1500",
			`the tag !!int is not supported: write the value without it`},
		"a tab for indentation": {"  be4:", "‸\tbe4:",
			"is no YAML: found character '\t' that cannot start any token"},
		"an open brace": {"mtu: 1500}\n", "mtu: 1500\n‸",
			"is no YAML: ',' or '}' must be specified"},
		"no services": {"  - {id: 1, vip: 40.1.1.1, port: 80, protocol: tcp, mode: dsr, backends: [be1, be2, be3, be4]}", "  ‸[]",
			`services: there are none: a lab has at least one`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			text, line, column := cursor(t, changed(t, c.old, c.new))
			want := fmt.Sprintf("lab.yaml:%d:%d: %s", line, column, c.want)
			faults := faultsOf(t, text)
			for _, f := range faults {
				if f.String() == want {
					return
				}
			}
			t.Errorf("got:\n%v\nwant among them:\n%s", faults, want)
		})
	}
}

func TestParseReportsAllFaultsInTheFilesOrder(t *testing.T) {
	faults := faultsOf(t, `name: My_Lab
switch: {subnet: 20.1.1.0/24, mtu: 70000, vlan: 7}
client: {address: 20.1.1.100}
nodes:
  lb: {role: loadbalancer, address: 20.1.1.1}
  be1: {role: backend, address: 20.1.1.1}
  be7: {role: backend, address: 20.1.2.1}
services:
  - {id: 1, vip: 40.1.1.1, port: 80, backends: [be1, be9]}
  - {id: 1, vip: 40.1.1.1, port: 80, backends: [be7], tableSize: 251}
`)
	got := make([]string, len(faults))
	for i, f := range faults {
		got[i] = fmt.Sprintf("%d:%d %s", f.Line, f.Column, f.Path)
	}
	want := []string{"1:7 name", "2:36 switch.mtu", "2:43 switch.vlan", "6:33 nodes.be1.address", "7:33 nodes.be7.address",
		"9:54 services[0].backends[1]", "10:5 services[1]", "10:10 services[1].id"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s\n\n%v", strings.Join(got, "\n"), strings.Join(want, "\n"), faults)
	}
	if lines := strings.Count(faults.Error(), "\n") + 1; lines != len(want) {
		t.Errorf("the message has %d lines, want %d", lines, len(want))
	}
	if faults.ExitCode() != 2 {
		t.Errorf("exit code %d, want 2", faults.ExitCode())
	}
}

// A value that could not be read must not lead to a second fault that says
// something else is wrong with it.
func TestParseReportsAnUnreadableValueOnce(t *testing.T) {
	for _, text := range []string{
		changed(t, "20.1.1.30", "nowhere"),
		changed(t, "20.1.1.0/24", "everywhere"),
		changed(t, "port: 80", "port: 99999"),
		changed(t, "[be1, be2, be3, be4]", "12"),
		"[]", "17", "hello",
	} {
		if faults := faultsOf(t, text); len(faults) != 1 {
			t.Errorf("%d faults, want 1:\n%v", len(faults), faults)
		}
	}
}

func TestLoadRefusesWhatIsNoTopologyFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cases := map[string]struct{ path, want string }{
		"a missing file":          {filepath.Join(dir, "missing"), "no such file or directory"},
		"a folder":                {dir, "is a directory"},
		"a file of 0 bytes":       {write("zero", nil), "is empty (0 bytes)"},
		"a file of comments":      {write("comments", []byte("# nothing\n\n# at all\n")), "is empty: nothing but comments"},
		"a file of line ends":     {write("lines", []byte("\n\n\n")), "is empty: nothing but comments"},
		"a program":               {write("elf", []byte("\x7fELF\x02\x01\x01\x00")), ":1:1: is no text: byte 0x7f"},
		"text with a NUL":         {write("nul", []byte("name: a\nswitch: \x00")), ":2:9: is no text: byte 0x00"},
		"Latin-1":                 {write("latin", []byte("name: \xe4")), ":1:7: is no text: byte 0xe4"},
		"a file of 1 MiB + 1":     {write("huge", []byte(strings.Repeat("#", MaxFileSize+1))), "is larger than 1024 KiB"},
		"two documents":           {write("two", []byte("---\nname: a\n---\nname: b\n")), ":4:1: a second YAML document"},
		"a text that is no lab":   {write("text", []byte("just words\n")), `:1:1: is the text "just words": expected a mapping`},
		"brackets without an end": {write("deep", []byte(strings.Repeat("[", 100000))), ":1:17: is nested too deeply"},
		"dashes without an end":   {write("dashes", []byte(strings.Repeat("- ", 100000))), ":1:33: is nested too deeply"},
		"a file of keys alone":    {write("keys", []byte(strings.Repeat("a: 1\n", 100000))), ":20001:2: more than 20000 keys"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Load(c.path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("got %v, want %q and the file's name in it", err, c.want)
			}
			var coded interface{ ExitCode() int }
			if !errors.As(err, &coded) || coded.ExitCode() != 2 {
				t.Errorf("%v does not ask for exit code 2", err)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	if _, err := Load(cases["a missing file"].path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
}

func TestLoadReadsAFileAndStandardInput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(path, DefaultYAML(), 0o600); err != nil {
		t.Fatal(err)
	}
	fromFile, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	stdin := os.Stdin
	os.Stdin = file
	defer func() { os.Stdin = stdin }()
	fromStdin, err := Load("-")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromFile, Default()) || !reflect.DeepEqual(fromStdin, Default()) {
		t.Errorf("file %+v, stdin %+v", fromFile, fromStdin)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(defaultYAML)
	for _, seed := range []string{"", "a", "[", "{a: {b: c}}", "- - -", "nodes: {a: {}}", "services: [{id: 1}, {}]", "? a\n: b", "a: |\n b\n", "\"\\u0000\": 1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := Parse("fuzz.yaml", data)
		if err != nil {
			var faults Faults
			if !errors.As(err, &faults) || err.Error() == "" {
				t.Fatalf("%T %v is no Faults", err, err)
			}
			return
		}
		if faults := Validate(parsed); faults != nil {
			t.Fatalf("what was parsed does not validate: %v", faults)
		}
		roundTrip(t, parsed)
	})
}
