package guestinit

import (
	"bufio"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Unit is a service's description, as far as the stand-in for systemd knows
// unit files (systemd.service(5), systemd.exec(5)).
type Unit struct {
	Name string
	// Type is simple, exec, oneshot or notify.
	Type            string
	Start           []Line
	Before          []Line `json:",omitempty"` // ExecStartPre
	After           []Line `json:",omitempty"` // ExecStartPost
	Stop            []Line `json:",omitempty"`
	Reload          []Line `json:",omitempty"`
	RemainAfterExit bool
	// Restart is no, always, on-failure, …; Pause passes before.
	Restart string
	Pause   time.Duration
	// NoStartLimit: it may be started again for ever.
	NoStartLimit bool
	Environment  []string
	Directory    string
	// RuntimeDirectories are made below /run, StateDirectories below /var/lib.
	RuntimeDirectories, StateDirectories []string
	// WantedBy and Alias say where `enable` links it.
	WantedBy, Alias []string
	// Log gets what it prints, "" for the unit's journal.
	Log string `json:",omitempty"`
}

// Line is a command line of a unit.
type Line struct {
	Argv []string
	// Lenient: a failure does not count ("-" in front).
	Lenient bool
}

// harmless are keys whose neglect changes nothing that a lab would notice.
var harmless = []string{
	"Description", "Documentation", "After", "Before", "Wants", "Requires", "Requisite", "BindsTo", "PartOf", "Conflicts",
	"DefaultDependencies", "RequiresMountsFor", "StartLimitBurst", "AssertPathExists",
	"TimeoutSec", "TimeoutStartSec", "TimeoutStopSec", "KillMode", "KillSignal", "SendSIGKILL", "SuccessExitStatus", "RestartPreventExitStatus",
	"StandardOutput", "StandardError", "SyslogIdentifier", "UMask", "Nice", "OOMScoreAdjust", "Delegate", "Slice", "NotifyAccess", "PIDFile",
	"NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "SystemCallFilter", "SystemCallArchitectures", "SystemCallErrorNumber",
	"DevicePolicy", "DeviceAllow", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "RuntimeDirectoryMode", "StateDirectoryMode",
	"RuntimeDirectoryPreserve", "WatchdogSec", "RequiredBy", "Also",
}

// harmlessPrefixes are families of such keys.
var harmlessPrefixes = []string{"Protect", "Private", "Restrict", "Lock", "Memory", "Limit", "CPU", "Tasks", "IO", "Condition"}

// ParseUnit reads a unit file. A key that it does not know is an error: it
// might matter.
func ParseUnit(name, text string) (Unit, error) {
	u := Unit{Name: name, Type: "simple", Restart: "no", Pause: 100 * time.Millisecond}
	scanner := bufio.NewScanner(strings.NewReader(strings.ReplaceAll(text, "\\\n", " ")))
	section := ""
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' {
			section = strings.Trim(line, "[]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return u, fmt.Errorf("%s: line %d: %q is not KEY=VALUE", name, number, line)
		}
		if strings.HasPrefix(section, "X-") {
			continue // systemd.unit(5): sections of others' own
		}
		if err := u.set(section, strings.TrimSpace(key), strings.TrimSpace(value)); err != nil {
			return u, fmt.Errorf("%s: line %d: %w", name, number, err)
		}
	}
	if len(u.Start) == 0 && u.Type != "oneshot" {
		return u, fmt.Errorf("%s: it has no ExecStart=", name)
	}
	if len(u.Start) > 1 && u.Type != "oneshot" {
		return u, fmt.Errorf("%s: it has %d ExecStart= lines, which only Type=oneshot may have", name, len(u.Start))
	}
	return u, nil
}

func (u *Unit) set(section, key, value string) error {
	value = strings.NewReplacer("%n", u.Name, "%N", strings.TrimSuffix(u.Name, ".service"), "%%", "%").Replace(value)
	lines := map[string]*[]Line{
		"ExecStart": &u.Start, "ExecStartPre": &u.Before, "ExecStartPost": &u.After, "ExecStop": &u.Stop, "ExecReload": &u.Reload,
	}
	lists := map[string]*[]string{
		"Environment": &u.Environment, "RuntimeDirectory": &u.RuntimeDirectories, "StateDirectory": &u.StateDirectories,
		"WantedBy": &u.WantedBy, "Alias": &u.Alias,
	}
	if list, ok := lines[key]; ok {
		return addLine(list, value)
	}
	if list, ok := lists[key]; ok {
		return addWords(list, value)
	}
	var err error
	switch key {
	case "Type":
		if !slices.Contains([]string{"simple", "exec", "oneshot", "notify"}, value) {
			return fmt.Errorf("type %s is not one of the stand-in's: simple, exec, oneshot, notify", value)
		}
		u.Type = value
	case "RemainAfterExit":
		u.RemainAfterExit = slices.Contains([]string{"yes", "true", "on", "1"}, value)
	case "Restart":
		u.Restart = value
	case "RestartSec":
		u.Pause, err = seconds(value)
	case "StartLimitIntervalSec":
		u.NoStartLimit = value == "0"
	case "WorkingDirectory":
		u.Directory = value
	case "EnvironmentFile":
		if !strings.HasPrefix(value, "-") {
			return fmt.Errorf("the stand-in for systemd reads no EnvironmentFile=%s", value)
		}
	default:
		prefixed := slices.ContainsFunc(harmlessPrefixes, func(p string) bool { return strings.HasPrefix(key, p) })
		if !prefixed && !slices.Contains(harmless, key) {
			return fmt.Errorf("the stand-in for systemd does not know %s= of [%s]", key, section)
		}
	}
	return err
}

func addLine(list *[]Line, value string) error {
	if value == "" {
		*list = nil
		return nil
	}
	line := Line{}
	for value != "" && strings.ContainsRune("-+!@:", rune(value[0])) {
		line.Lenient = line.Lenient || value[0] == '-'
		value = value[1:]
	}
	words, err := splitWords(value)
	if err != nil || len(words) == 0 {
		return fmt.Errorf("%q is no command line: %v", value, err)
	}
	line.Argv = words
	*list = append(*list, line)
	return nil
}

func addWords(list *[]string, value string) error {
	words, err := splitWords(value)
	if err != nil {
		return err
	}
	*list = append(*list, words...)
	if value == "" {
		*list = nil
	}
	return nil
}

// seconds reads "5", "100ms", "1min".
func seconds(value string) (time.Duration, error) {
	if n, err := strconv.ParseFloat(value, 64); err == nil {
		return time.Duration(n * float64(time.Second)), nil
	}
	return time.ParseDuration(strings.NewReplacer("min", "m", "sec", "s", " ", "").Replace(value))
}

// splitWords splits a line as systemd.syntax(7) says: blanks, quotes, C's
// escapes.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	escaped := false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(unescape(r))
			escaped = false
		case r == '\\':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, inWord = r, true
		case quote == 0 && (r == ' ' || r == '\t'):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("a quote or a backslash is open at the end of %q", s)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

func unescape(r rune) rune {
	switch r {
	case 'n':
		return '\n'
	case 't':
		return '\t'
	case 'r':
		return '\r'
	case 's':
		return ' '
	}
	return r
}

// expand puts the environment's values for ${NAME} into a command line; a
// $NAME that stands alone becomes as many words as its value has, and $$ is a
// dollar sign (systemd.service(5), "Command lines").
func expand(argv, environment []string) []string {
	value := func(name string) string {
		for _, e := range slices.Backward(environment) {
			if key, v, _ := strings.Cut(e, "="); key == name {
				return v
			}
		}
		return ""
	}
	var words []string
	for _, a := range argv {
		name, alone := strings.CutPrefix(a, "$")
		if alone && name != "" && !strings.ContainsAny(name, "{$") {
			words = append(words, strings.Fields(value(name))...)
			continue
		}
		words = append(words, expandWord(a, value))
	}
	return words
}

func expandWord(a string, value func(string) string) string {
	var word strings.Builder
	for {
		before, rest, found := strings.Cut(a, "$")
		word.WriteString(before)
		if !found {
			return word.String()
		}
		name, after, closed := strings.Cut(strings.TrimPrefix(rest, "{"), "}")
		switch {
		case strings.HasPrefix(rest, "$"):
			word.WriteByte('$')
			a = rest[1:]
		case strings.HasPrefix(rest, "{") && closed:
			word.WriteString(value(name))
			a = after
		default:
			word.WriteByte('$')
			a = rest
		}
	}
}
