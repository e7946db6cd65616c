// Package config is the agent's config file: YAML, read strictly, with a schema made from
// the types. Load reads one and reports everything that is wrong with it, services
// included; Watch tells when it has changed, and Restart which of the changes need
// the agent to be started anew.
package config

import (
	"net/netip"
	"reflect"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/strictyaml"
)

// Config is what a file says. What it leaves out has its default, as Default has it;
// a zero value is left to who starts the agent.
type Config struct {
	Interface string       `json:"interface,omitzero"`
	Addresses []netip.Addr `json:"addresses,omitzero"`
	Mode      string       `json:"mode,omitzero"`
	// VLAN is what becomes of frames with a VLAN tag: "pass" or "drop".
	VLAN      string    `json:"vlan,omitzero"`
	Generic   bool      `json:"generic,omitzero"`
	Image     string    `json:"image,omitzero"`
	Profile   string    `json:"profile,omitzero"`
	Socket    Socket    `json:"socket,omitzero"`
	StateFile string    `json:"stateFile,omitzero"`
	PinDir    string    `json:"pinDir,omitzero"`
	Sizes     Sizes     `json:"sizes,omitzero"`
	Lifetimes Lifetimes `json:"lifetimes,omitzero"`
	NAT       NAT       `json:"nat,omitzero"`
	Metrics   Metrics   `json:"metrics,omitzero"`
	Log       Log       `json:"log,omitzero"`
	Events    Events    `json:"events,omitzero"`
	Drain     Drain     `json:"drain,omitzero"`
	// Services are nil when the file has no such key: then those of the API are kept.
	// An empty list is one: no service.
	Services []api.Service `json:"services,omitzero"`
}

// Socket is where the API listens.
type Socket struct {
	Path string `json:"path,omitzero"`
	// Group may use it as well, by name or number; "" means the agent's user alone.
	Group string `json:"group,omitzero"`
}

// Sizes are how many entries maps have; 0 is what they have, at first the default.
type Sizes struct {
	Connections uint32 `json:"connections,omitzero"`
	Services    uint32 `json:"services,omitzero"`
	Backends    uint32 `json:"backends,omitzero"`
	Sources     uint32 `json:"sources,omitzero"`
}

// Lifetimes are how long silent flows are remembered.
type Lifetimes struct {
	TCPEstablished api.Duration `json:"tcpEstablished,omitzero"`
	TCPSYN         api.Duration `json:"tcpSyn,omitzero"`
	TCPClosing     api.Duration `json:"tcpClosing,omitzero"`
	NonTCP         api.Duration `json:"nonTcp,omitzero"`
	Fragment       api.Duration `json:"fragment,omitzero"`
}

// NAT bounds SNAT's source ports.
type NAT struct {
	MinPort uint16 `json:"minPort,omitzero"`
	MaxPort uint16 `json:"maxPort,omitzero"`
}

// Metrics is the Prometheus listener; without an address there is none.
type Metrics struct {
	Listen netip.AddrPort `json:"listen,omitzero"`
	// Public permits an address that other machines reach: metrics are not secret,
	// but have no access control.
	Public bool `json:"public,omitzero"`
}

// Log says how the agent logs.
type Log struct {
	Level  string `json:"level,omitzero"`
	Format string `json:"format,omitzero"`
}

// Events are the data path's messages about flows, which it sends while somebody listens.
type Events struct {
	// Rate is how many each processor may send in a second to listeners that name no rate.
	Rate uint32 `json:"rate,omitzero"`
}

// Drain is how backends leave.
type Drain struct {
	// Deadline is for those that drain without one of their own; 0 is none.
	Deadline api.Duration `json:"deadline,omitzero"`
}

// The values of Log.
const (
	FormatAuto = "auto"
	FormatText = "text"
	FormatJSON = "json"
)

func levels() []string  { return []string{"debug", "info", "warn", "error"} }
func formats() []string { return []string{FormatAuto, FormatText, FormatJSON} }
func modes() []string   { return []string{datapath.DSR.String(), datapath.SNAT.String()} }
func vlans() []string   { return []string{datapath.VLANPass.String(), datapath.VLANDrop.String()} }
func profiles() []string {
	return []string{string(datapath.ProfileEFW021), string(datapath.ProfileXDP)}
}

// Default is what a file that says nothing means.
func Default() Config {
	c := datapath.DefaultConfig()
	return Config{
		VLAN: c.VLAN.String(),
		Lifetimes: Lifetimes{
			TCPEstablished: api.Duration(c.Lifetimes.TCPEstablished),
			TCPSYN:         api.Duration(c.Lifetimes.TCPSYN),
			TCPClosing:     api.Duration(c.Lifetimes.TCPClosing),
			NonTCP:         api.Duration(c.Lifetimes.NonTCP),
			Fragment:       api.Duration(c.Lifetimes.Fragment),
		},
		NAT:    NAT{MinPort: c.NATMin, MaxPort: c.NATMax},
		Log:    Log{Level: "info", Format: FormatAuto},
		Events: Events{Rate: api.DefaultEventRate},
	}
}

// Datapath is what the data path is told of it; the interface's own facts are not in it.
func (c Config) Datapath() datapath.Config {
	vlan, _ := datapath.ParseVLAN(c.VLAN) // Validate has judged it
	return datapath.Config{
		VLAN:   vlan,
		NATMin: c.NAT.MinPort, NATMax: c.NAT.MaxPort,
		Lifetimes: datapath.Lifetimes{
			TCPEstablished: time.Duration(c.Lifetimes.TCPEstablished),
			TCPSYN:         time.Duration(c.Lifetimes.TCPSYN),
			TCPClosing:     time.Duration(c.Lifetimes.TCPClosing),
			NonTCP:         time.Duration(c.Lifetimes.NonTCP),
			Fragment:       time.Duration(c.Lifetimes.Fragment),
		},
	}
}

// Room is the sizes as the data path takes them.
func (c Config) Room() datapath.Sizes { return datapath.Sizes(c.Sizes) }

// MaxFileSize is the largest config file in bytes: a service with 16,384 backends
// by address alone is a third of it.
const MaxFileSize = 2 << 20

func format() strictyaml.Format {
	return strictyaml.Format{
		Noun:    "config",
		Start:   "`lbagent config example` prints one to start from",
		Tag:     "json",
		MaxSize: MaxFileSize,
		MaxKeys: 50000,
		Hidden:  hidden,
		Short:   map[reflect.Type]string{reflect.TypeFor[api.Backend](): "Address"},
		Wanted: func(t reflect.Type) string {
			if t == reflect.TypeFor[api.Duration]() {
				return "a duration like 30s or 1h30m"
			}
			return ""
		},
	}
}

// hidden are what the API says of services, and nobody can wish.
func hidden(t reflect.Type, name string) bool {
	return t == reflect.TypeFor[api.Service]() && name == "revision" || t == reflect.TypeFor[api.Backend]() && name == "health"
}
