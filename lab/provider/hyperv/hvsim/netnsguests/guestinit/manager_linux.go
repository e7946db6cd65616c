package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// unitFolders are where unit files lie, the first one that has a name counts.
var unitFolders = [...]string{"/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system"}

const (
	// enabledFolder holds the links of `systemctl enable`, whatever the target.
	wantsSuffix = ".wants"
	journals    = "/var/log/journal"
)

// errNoUnit: systemctl says so with exit code 4 or 5.
var errNoUnit = errors.New("could not be found")

// manager is the stand-in for systemd's service manager.
type manager struct {
	machine *machine

	mu       sync.Mutex
	loaded   map[string]Unit
	services map[string]*service
	order    []string
}

func newManager(m *machine) *manager {
	return &manager{machine: m, loaded: map[string]Unit{}, services: map[string]*service{}}
}

// sshUnit is what the image has: OpenSSH's server. Debian's own unit needs a
// real systemd's features.
const sshUnit = `[Unit]
Description=OpenSSH server
[Service]
Type=notify
RuntimeDirectory=sshd
ExecStartPre=/usr/sbin/sshd -t
ExecStart=/usr/sbin/sshd -D -e
Restart=on-failure
[Install]
WantedBy=multi-user.target
Alias=sshd.service
`

// aliases are further names of units of the image.
var aliases = map[string]string{"sshd.service": "ssh.service"}

// canonical completes a unit's name as systemctl does.
func canonical(name string) string {
	if !strings.ContainsRune(name, '.') {
		name += ".service"
	}
	if other, ok := aliases[name]; ok {
		return other
	}
	return name
}

// reload forgets what was read of unit files.
func (g *manager) reload() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.loaded)
	return nil
}

// find reads a unit.
func (g *manager) find(name string) (Unit, error) {
	name = canonical(name)
	g.mu.Lock()
	defer g.mu.Unlock()
	if u, ok := g.loaded[name]; ok {
		return u, nil
	}
	text, err := readUnit(name)
	if err != nil {
		return Unit{}, err
	}
	u, err := ParseUnit(name, text)
	if err == nil {
		g.loaded[name] = u
	}
	return u, err
}

func readUnit(name string) (string, error) {
	if !filepath.IsLocal(name) || strings.ContainsRune(name, '/') {
		return "", fmt.Errorf("%q is no unit's name", name)
	}
	if name == "ssh.service" {
		return sshUnit, nil
	}
	for _, dir := range unitFolders {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			return string(text), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("unit %s %w", name, errNoUnit)
}

// enabled returns the units that the boot starts.
func (g *manager) enabled() []string {
	links, _ := filepath.Glob(unitFolders[0] + "/*" + wantsSuffix + "/*.service")
	var names []string
	for _, link := range links {
		names = append(names, filepath.Base(link))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// setEnabled links a unit where the boot looks, or removes the links.
func (g *manager) setEnabled(name string, on bool) error {
	u, err := g.find(name)
	if err != nil && on {
		return err
	}
	name = canonical(name)
	links, _ := filepath.Glob(unitFolders[0] + "/*" + wantsSuffix + "/" + name)
	if !on {
		for _, link := range links {
			err = errors.Join(err, os.Remove(link))
		}
		if errors.Is(err, errNoUnit) && len(links) > 0 {
			return nil
		}
		return err
	}
	if len(u.WantedBy) == 0 {
		return fmt.Errorf("unit %s has no WantedBy=: it cannot be enabled", name)
	}
	for _, target := range u.WantedBy {
		dir := filepath.Join(unitFolders[0], target+wantsSuffix)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		err := os.Symlink(filepath.Join(unitFolders[0], name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func (g *manager) isEnabled(name string) bool {
	return canonical(name) == "ssh.service" || slices.Contains(g.enabled(), canonical(name))
}

// service returns the running state of a unit, made when it is missing.
func (g *manager) service(name string) *service {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, ok := g.services[name]
	if !ok {
		s = newService(name, g.machine)
		g.services[name] = s
	}
	return s
}

// start starts a unit of the machine's files and waits for its start's end.
func (g *manager) start(name string) error {
	u, err := g.find(name)
	if err != nil {
		return err
	}
	return g.startGiven(u)
}

// startGiven starts a service of a description.
func (g *manager) startGiven(u Unit) error {
	s := g.service(u.Name)
	g.mu.Lock()
	if !slices.Contains(g.order, u.Name) {
		g.order = append(g.order, u.Name)
	}
	g.mu.Unlock()
	return s.start(u)
}

func (g *manager) stop(name string) error {
	return g.service(canonical(name)).stop()
}

func (g *manager) state(name string) *ServiceState {
	s := g.service(canonical(name)).state()
	return &s
}

// stopAll stops in the order of the starts, backwards.
func (g *manager) stopAll() {
	g.mu.Lock()
	order := slices.Clone(g.order)
	g.mu.Unlock()
	for _, name := range slices.Backward(order) {
		if err := g.stop(name); err != nil {
			g.machine.log.Warn("stop", "unit", name, "error", err)
		}
	}
}
