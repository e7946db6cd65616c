// Package capability says what the data path can do on each system that it runs on,
// and why not where it cannot. It is one table: `lbagent capabilities` prints it, the
// agent refuses services by it, and the documentation is rendered from it.
package capability

import (
	"fmt"
	"runtime"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// Profile is a system as far as the data path is concerned.
type Profile string

// The profiles. Windows' are datapath's.
const (
	Linux  Profile = "linux"
	EFW021         = Profile(datapath.ProfileEFW021)
	XDP            = Profile(datapath.ProfileXDP)
)

// Profiles returns all of them, in the order of the tables.
func Profiles() []Profile { return []Profile{Linux, EFW021, XDP} }

// Describe says in words what a profile is.
func (p Profile) Describe() string {
	switch p {
	case Linux:
		return "Linux 5.11 or newer, native XDP"
	case EFW021:
		return "eBPF for Windows 0.21 with its hook XDP_TEST"
	case XDP:
		return "eBPF for Windows 1.0 or newer with XDP for Windows"
	}
	return "unknown"
}

// ParseProfile reads a profile's name.
func ParseProfile(s string) (Profile, error) {
	for _, p := range Profiles() {
		if s == string(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("%q is no profile: %s, %s or %s", s, Linux, EFW021, XDP)
}

// Here is the profile of this system; asked is datapath.Options', which only Windows has.
func Here(asked datapath.Profile) Profile {
	switch {
	case runtime.GOOS == "windows" && asked == "":
		return EFW021
	case runtime.GOOS == "windows":
		return Profile(asked)
	}
	return Linux
}

// Level is how far a feature is supported.
type Level string

// The levels.
const (
	Yes Level = "yes"
	// Partly: it works, with the difference that the note says.
	Partly Level = "partly"
	No     Level = "no"
)

// Support is one cell of the table.
type Support struct {
	Level Level `json:"level"`
	// Note says why, or how it differs; it is never empty but with Yes.
	Note string `json:"note,omitempty"`
}

// Feature is one row of the table.
type Feature struct {
	// Key is stable, for programs; Name is for people; Group gathers rows.
	Key   string `json:"key"`
	Group string `json:"group"`
	Name  string `json:"name"`
	// Support has every profile.
	Support map[Profile]Support `json:"support"`
}

// On is a feature's support on one profile.
func (f Feature) On(p Profile) Support { return f.Support[p] }

// Find returns the feature of a key; ok is false when there is none.
func Find(key string) (f Feature, ok bool) {
	for _, f := range Table() {
		if f.Key == key {
			return f, true
		}
	}
	return Feature{}, false
}

// Report returns the table of one profile, as `lbagent capabilities -o json` prints it.
func Report(p Profile) api.Capabilities {
	report := api.Capabilities{Profile: string(p), System: p.Describe()}
	for _, f := range Table() {
		on := f.On(p)
		report.Features = append(report.Features, api.Capability{
			Key: f.Key, Group: f.Group, Name: f.Name, Support: string(on.Level), Note: on.Note,
		})
	}
	return report
}
