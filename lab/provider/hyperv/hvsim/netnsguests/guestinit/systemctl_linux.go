package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// downDelay passes between the answer to `systemctl reboot` and the deed.
const downDelay = 200 * time.Millisecond

// command answers a line of the machine's commands.
func (m *machine) command(argv []string) (text string, code int, err error) {
	switch argv[0] {
	case "systemctl":
		return m.systemctl(argv[1:])
	case "journalctl":
		text, err := m.journalctl(argv[1:])
		return text, 0, err
	case "cloud-init":
		return m.cloudInit(argv[1:])
	}
	return "", 1, fmt.Errorf("the simulated machine has no %s", argv[0])
}

// call is a parsed line of systemctl.
type call struct {
	verb       string
	units      []string
	properties []string
	value, now bool
}

func parseSystemctl(args []string) (call, error) {
	var c call
	for i := 0; i < len(args); i++ {
		a := args[i]
		name, value, given := strings.Cut(a, "=")
		switch {
		case name == "-p" || name == "--property":
			if !given {
				if i++; i == len(args) {
					return c, fmt.Errorf("%s wants a value", name)
				}
				value = args[i]
			}
			c.properties = append(c.properties, strings.Split(value, ",")...)
		case a == "--value":
			c.value = true
		case a == "--now":
			c.now = true
		case slices.Contains([]string{"-q", "--quiet", "--no-pager", "--system", "--no-block", "--no-ask-password", "--wait", "--force", "-f", "--no-wall", "-i"}, a):
		case strings.HasPrefix(a, "-"):
			return c, fmt.Errorf("the stand-in for systemctl does not know %s", a)
		case c.verb == "":
			c.verb = a
		default:
			c.units = append(c.units, a)
		}
	}
	return c, nil
}

func (m *machine) systemctl(args []string) (string, int, error) {
	c, err := parseSystemctl(args)
	if err != nil {
		return "", 1, err
	}
	g := m.services
	switch c.verb {
	case "daemon-reload":
		return "", 0, g.reload()
	case "reboot", "poweroff":
		// Whoever asked gets an answer, over SSH, too, before the server ends.
		time.AfterFunc(downDelay, func() { m.wishDown(c.verb == "reboot") })
		return "", 0, nil
	case "is-system-running":
		return m.isRunning()
	case "is-active", "is-enabled", "is-failed", "show", "status":
		return m.ask(c)
	}
	each := map[string]func(string) error{
		"start": g.start, "stop": g.stopKnown, "restart": g.restart, "try-restart": g.restart, "reload": g.reloadUnit,
		"reload-or-restart": g.restart, "reset-failed": g.resetFailed,
		"enable":  func(u string) error { return g.enable(u, c.now) },
		"disable": func(u string) error { return g.disable(u, c.now) },
	}
	do, known := each[c.verb]
	if !known {
		return "", 1, fmt.Errorf("the stand-in for systemctl does not know %q", c.verb)
	}
	if len(c.units) == 0 {
		return "", 1, fmt.Errorf("%s wants a unit", c.verb)
	}
	for _, u := range c.units {
		err = errors.Join(err, do(u))
	}
	if errors.Is(err, errNoUnit) {
		return "", 5, err
	}
	if err != nil {
		return "", 1, err
	}
	return "", 0, nil
}

func (m *machine) isRunning() (string, int, error) {
	select {
	case <-m.seeded:
		return "running\n", 0, nil
	default:
		return "starting\n", 1, nil
	}
}

func (g *manager) stopKnown(name string) error {
	if _, err := g.find(name); errors.Is(err, errNoUnit) && g.state(name).Active == "inactive" {
		return err
	}
	return g.stop(name)
}

func (g *manager) restart(name string) error {
	if _, err := g.find(name); err != nil {
		return err
	}
	if err := g.stop(name); err != nil {
		return err
	}
	return g.start(name)
}

func (g *manager) reloadUnit(name string) error {
	s := g.service(canonical(name))
	if s.state().Active != "active" {
		return fmt.Errorf("unit %s is not active, cannot reload", canonical(name))
	}
	lines := slices.Clone(s.unit.Reload)
	for i := range lines {
		pid := strconv.Itoa(s.state().PID)
		lines[i].Argv = slices.Clone(lines[i].Argv)
		for j, a := range lines[i].Argv {
			lines[i].Argv[j] = strings.ReplaceAll(a, "$MAINPID", pid)
		}
	}
	return s.runAll(lines)
}

func (g *manager) resetFailed(name string) error {
	if s := g.service(canonical(name)); s.state().Active == "failed" {
		s.set("inactive")
	}
	return nil
}

func (g *manager) enable(name string, now bool) error {
	if err := g.setEnabled(name, true); err != nil || !now {
		return err
	}
	return g.start(name)
}

func (g *manager) disable(name string, now bool) error {
	if err := g.setEnabled(name, false); err != nil || !now {
		return err
	}
	return g.stop(name)
}

// ask answers the verbs that change nothing; their exit codes are systemctl(1)'s.
func (m *machine) ask(c call) (string, int, error) {
	if len(c.units) == 0 {
		return "", 1, fmt.Errorf("%s wants a unit", c.verb)
	}
	var out strings.Builder
	code := 0
	for _, name := range c.units {
		_, err := m.services.find(name)
		missing := errors.Is(err, errNoUnit)
		s := m.services.state(name)
		switch c.verb {
		case "is-active":
			fmt.Fprintln(&out, s.Active)
			if s.Active != "active" {
				code = 3
			}
		case "is-failed":
			fmt.Fprintln(&out, s.Active)
			if s.Active != "failed" {
				code = 1
			}
		case "is-enabled":
			if missing {
				return "", 4, fmt.Errorf("failed to get unit file state for %s: no such file or directory", canonical(name))
			}
			if m.services.isEnabled(name) {
				fmt.Fprintln(&out, "enabled")
			} else {
				fmt.Fprintln(&out, "disabled")
				code = 1
			}
		case "status":
			if missing {
				return "", 4, fmt.Errorf("unit %s could not be found", canonical(name))
			}
			fmt.Fprintf(&out, "%s (stand-in for systemd)\n  Active: %s\n  Main PID: %d\n", canonical(name), s.Active, s.PID)
			if s.Active != "active" {
				code = 3
			}
		case "show":
			m.show(&out, c, name, *s, err)
		}
	}
	return out.String(), code, nil
}

// show prints properties, the known ones of systemd's.
func (m *machine) show(out *strings.Builder, c call, name string, s ServiceState, found error) {
	sub := map[string]string{"active": "running", "inactive": "dead", "failed": "failed", "activating": "start", "deactivating": "stop"}[s.Active]
	if s.Active == "active" && s.PID == 0 {
		sub = "exited"
	}
	if s.Waiting {
		sub = "auto-restart"
	}
	load, result := "loaded", "success"
	switch {
	case errors.Is(found, errNoUnit):
		load = "not-found"
	case found != nil:
		load = "bad-setting"
	}
	if s.Active == "failed" || s.ExitCode != 0 {
		result = "exit-code"
	}
	file := ""
	if load != "not-found" {
		file = "disabled"
		if m.services.isEnabled(name) {
			file = "enabled"
		}
	}
	known := [][2]string{
		{"Id", canonical(name)}, {"LoadState", load}, {"ActiveState", s.Active}, {"SubState", sub}, {"UnitFileState", file},
		{"MainPID", strconv.Itoa(s.PID)}, {"ExecMainStatus", strconv.Itoa(s.ExitCode)}, {"Result", result}, {"NRestarts", strconv.Itoa(s.Restarts)},
	}
	for _, p := range known {
		switch {
		case len(c.properties) > 0 && !slices.Contains(c.properties, p[0]):
		case c.value:
			fmt.Fprintln(out, p[1])
		default:
			fmt.Fprintf(out, "%s=%s\n", p[0], p[1])
		}
	}
}

// journalctl prints the end of a unit's output; no times, whatever -o says.
func (m *machine) journalctl(args []string) (string, error) {
	unit, count := "", -1
	for i := 0; i < len(args); i++ {
		name, value, given := strings.Cut(args[i], "=")
		takes := slices.Contains([]string{"-u", "--unit", "-n", "--lines", "-o", "--output"}, name)
		if takes && !given {
			if i++; i == len(args) {
				return "", fmt.Errorf("%s wants a value", name)
			}
			value = args[i]
		}
		switch {
		case name == "-u" || name == "--unit":
			unit = canonical(value)
		case name == "-n" || name == "--lines":
			n, err := strconv.Atoi(value)
			if err != nil && value != "all" {
				return "", fmt.Errorf("-n %s is no number", value)
			}
			if err == nil {
				count = n
			}
		case takes || slices.Contains([]string{"--no-pager", "-q", "--quiet", "-b", "--boot", "-a", "--all"}, name):
		default:
			return "", fmt.Errorf("the stand-in for journalctl does not know %s", args[i])
		}
	}
	if unit == "" {
		return "", errors.New("the stand-in for journalctl wants -u UNIT")
	}
	data, err := os.ReadFile(m.services.service(unit).journalFile())
	if errors.Is(err, fs.ErrNotExist) {
		return "-- No entries --\n", nil
	}
	lines := slices.Collect(strings.Lines(string(data)))
	if count >= 0 {
		lines = lines[max(0, len(lines)-count):]
	}
	text := strings.Join(lines, "")
	const limit = maxPacket / 4 // JSON may need more room
	return text[max(0, len(text)-limit):], err
}

// cloudInit answers `cloud-init status [--wait]`.
func (m *machine) cloudInit(args []string) (string, int, error) {
	if len(args) == 0 || args[0] != "status" {
		return "", 1, errors.New("the stand-in for cloud-init knows `status [--wait]` alone")
	}
	select {
	case <-m.seeded:
	default:
		if !slices.Contains(args, "--wait") {
			return "status: running\n", 0, nil
		}
		<-m.seeded
	}
	return "status: done\n", 0, nil
}
