package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"l4lab/agent/api"
	"l4lab/agent/maglev"
)

// rule is what a field's Go type does not say.
type rule struct {
	required    bool
	description string
	adjust      func(*jsonschema.Schema)
}

// rules has one entry for each field that a file may have, under TYPE.FIELD in Go's
// names. The schema and the reference in docs/agent.md are made of them.
func rules() map[string]rule {
	d := Default()
	all := map[string]rule{
		"Config.Interface": {true, "The network interface of the VIPs' packets.", func(s *jsonschema.Schema) { s.MinLength = count(1) }},
		"Config.Addresses": {false, "The balancer's own addresses on it, at most one of each family; of a family that is not among them, the interface's first.",
			func(s *jsonschema.Schema) { s.MaxItems = count(2) }},
		"Config.Mode":      {false, "How packets reach a backend and come back in services that do not say; left out, the last one, at first dsr.", words("", modes())},
		"Config.VLAN":      {false, "What becomes of frames with a VLAN tag (802.1Q, 802.1ad), whoever they are for: pass leaves them to the stack, drop counts them as drops of reason vlan. Tags that the card takes off are not seen.", words(d.VLAN, vlans())},
		"Config.Generic":   {false, "Permit XDP's generic mode, which every driver has and which is slow. Linux only.", otherwise(false)},
		"Config.Image":     {false, "The data path's native image, a .sys file. Windows only.", nil},
		"Config.Profile":   {false, "What provides the XDP hook; left out, efw-0.21. Windows only.", words("", profiles())},
		"Config.Socket":    {false, "Where the API listens.", nil},
		"Config.StateFile": {false, "The file that keeps the services and their numbering; left out, beside the socket, where a reboot loses it.", nil},
		"Config.PinDir":    {false, "Where maps and programs are pinned; left out, /sys/fs/bpf/lbagent. On Windows, the pins' prefix.", nil},
		"Config.Sizes":     {false, "Room in the maps. Linux only.", nil},
		"Config.Lifetimes": {false, "How long silent flows are remembered.", nil},
		"Config.NAT":       {false, "SNAT's source ports; keep them out of ip_local_port_range.", nil},
		"Config.Metrics":   {false, "The Prometheus listener.", nil},
		"Config.Log":       {false, "The log, on standard error.", nil},
		"Config.Events":    {false, "The data path's messages about flows, sent while somebody listens.", nil},
		"Config.Drain":     {false, "How backends leave.", nil},
		"Config.Services":  {false, "The services, all of them: others are removed. Left out, the services are those of the API and the state file.", nil},

		"Socket.Path":  {false, "The unix socket; left out, /run/lbagent.sock. It is the user's alone (0600).", nil},
		"Socket.Group": {false, "A group, by name or number, whose members may use the socket as well (0660). Linux only.", nil},

		"Sizes.Connections": {false, "Established IPv4 flows; IPv6 has a quarter of it. 0 is what the maps have, at first 131072.", between(0, maxConnections)},
		"Sizes.Services":    {false, "Services. 0 is what the maps have, at first 4096.", between(0, maxEntries)},
		"Sizes.Backends":    {false, "Backends of all services together. 0 is what the maps have, at first 16384.", between(0, maxEntries)},
		"Sizes.Sources":     {false, "Source ranges of all services together. 0 is what the maps have, at first 4096.", between(0, maxEntries)},

		"Lifetimes.TCPEstablished": {false, "TCP flows whose client spoke after its SYN; 1s to 720h.", otherwise(d.Lifetimes.TCPEstablished)},
		"Lifetimes.TCPSYN":         {false, "TCP flows of which only the SYN was seen.", otherwise(d.Lifetimes.TCPSYN)},
		"Lifetimes.TCPClosing":     {false, "TCP flows after a FIN of each side that passes, or an RST.", otherwise(d.Lifetimes.TCPClosing)},
		"Lifetimes.NonTCP":         {false, "UDP flows.", otherwise(d.Lifetimes.NonTCP)},
		"Lifetimes.Fragment":       {false, "The ports of a fragmented packet.", otherwise(d.Lifetimes.Fragment)},

		"NAT.MinPort": {false, "The first.", both(between(minNATPort, 65535), otherwise(d.NAT.MinPort))},
		"NAT.MaxPort": {false, "The last.", both(between(minNATPort, 65535), otherwise(d.NAT.MaxPort))},

		"Metrics.Listen": {false, "Its address and port; left out, there is none. Other than a loopback address needs public.", nil},
		"Metrics.Public": {false, "Permit an address that other machines reach: there is no access control.", otherwise(false)},

		"Log.Level":  {false, "What is logged at least.", words(d.Log.Level, levels())},
		"Log.Format": {false, "auto is text on a terminal and JSON elsewhere.", words(d.Log.Format, formats())},

		"Events.Rate":    {false, "How many each processor may send in a second, while `lbagent monitor` or another listener that names no rate listens.", both(between(1, maxEventRate), otherwise(d.Events.Rate))},
		"Drain.Deadline": {false, "When the connections of a draining backend without a deadline of its own are cut, from the beginning of its draining; left out, never.", nil},
	}
	for name, r := range serviceRules() {
		all[name] = r
	}
	return all
}

// serviceRules are those of the API's types.
func serviceRules() map[string]rule {
	return map[string]rule{
		"Service.ID":          {true, "The service's number, unique.", between(1, api.MaxServiceID)},
		"Service.Frontend":    {true, "The virtual address and port. Port 0 is all ports that no other service of the address and protocol has, with backends of port 0.", nil},
		"Service.Protocol":    {false, "The transport.", words("tcp", []string{"tcp", "udp"})},
		"Service.Mode":        {false, "dsr or snat; left out, the config's mode. Flows that began go on in theirs.", words("", modes())},
		"Service.Encap":       {false, "How DSR reaches a backend: ipip (4in4, 6in6), or l2 by destination MAC alone.", words("ipip", []string{"ipip", "l2"})},
		"Service.OuterSource": {false, "The source of the outer header: an address, or a prefix over whose free bits flows are spread; left out, the balancer's own.", nil},
		"Service.Selection":   {false, "How a new flow gets its backend.", words("maglev", []string{"maglev", "random"})},
		"Service.Affinity":    {false, "Keep a client at one backend until it has been silent for so long, 1s to 168h; left out, off.", nil},
		"Service.Sources":     {false, "The clients that are let in; left out, all.", nil},
		"Service.MSS":         {false, "Bound of the TCP MSS option, 500 to 65495; 0 leaves it alone.", between(0, 65495)},
		"Service.TableSize": {false, "Slots of the Maglev table.", func(s *jsonschema.Schema) {
			for _, size := range maglev.Sizes() {
				s.Enum = append(s.Enum, size)
			}
			s.Default = maglev.DefaultSize
		}},
		"Service.Backends":    {true, "Where the service's packets go, at least one.", func(s *jsonschema.Schema) { s.MinItems = count(1) }},
		"Service.HealthCheck": {false, "Have the agent check the backends; left out, it does not.", nil},

		"Backend.Address":    {true, "Its address and port. In DSR the port is the frontend's.", nil},
		"Backend.Weight":     {false, "Its share of new flows; 0 gets none.", both(between(0, api.MaxWeight), otherwise(1))},
		"Backend.State":      {false, "Only an active one gets new flows. One that drains leaves with its last connection, and is then not put back.", words("active", []string{"active", "draining", "maintenance"})},
		"Backend.DrainUntil": {false, "When a draining one's connections are cut; left out, drain.deadline decides.", nil},

		"HealthCheck.Type":     {true, "tcp connects, http sends a GET.", words("", []string{"tcp", "http"})},
		"HealthCheck.Via":      {false, "direct asks the backend's own address; vip goes the way of the VIP's packets, encapsulated, and needs CAP_NET_RAW.", words("direct", []string{"direct", "vip"})},
		"HealthCheck.Port":     {false, "The backend's port to check; 0 is the service's.", both(between(0, 65535), otherwise(0))},
		"HealthCheck.Path":     {false, "What http asks for.", func(s *jsonschema.Schema) { s.Pattern, s.Default = "^/", "/" }},
		"HealthCheck.Status":   {false, "The status that http wants; 0 is any of 200 to 399.", both(between(0, 599), otherwise(0))},
		"HealthCheck.Interval": {false, "Between checks.", otherwise("5s")},
		"HealthCheck.Timeout":  {false, "Of one check.", otherwise("1s")},
		"HealthCheck.Rise":     {false, "Good results in a row that bring a backend back; 0 is 2.", both(between(0, 1000), otherwise(2))},
		"HealthCheck.Fall":     {false, "Bad results in a row that quarantine it; 0 is 3.", both(between(0, 1000), otherwise(3))},
	}
}

func count(n uint64) *uint64 { return &n }

func between(low, high int) func(*jsonschema.Schema) {
	return func(s *jsonschema.Schema) {
		s.Minimum, s.Maximum = json.Number(fmt.Sprint(low)), json.Number(fmt.Sprint(high))
	}
}

// otherwise is the default.
func otherwise(v any) func(*jsonschema.Schema) {
	if text, ok := v.(fmt.Stringer); ok {
		v = text.String()
	}
	return func(s *jsonschema.Schema) { s.Default = v }
}

// words are the values that a text may have; fallback is "" where there is none.
func words(fallback string, known []string) func(*jsonschema.Schema) {
	return func(s *jsonschema.Schema) {
		for _, w := range known {
			s.Enum = append(s.Enum, w)
		}
		if fallback != "" {
			s.Default = fallback
		}
	}
}

func both(first, second func(*jsonschema.Schema)) func(*jsonschema.Schema) {
	return func(s *jsonschema.Schema) { first(s); second(s) }
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
