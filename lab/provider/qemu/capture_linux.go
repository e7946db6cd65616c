package qemu

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"l4lab/lab/capture"
	"l4lab/lab/provider"
	"l4lab/lab/role/linux"
)

// Capture implements provider.Provider. The switch's ports are this machine's own;
// guests are watched by a tool in them.
func (p *Provider) Capture(ctx context.Context, lab provider.Lab, place capture.Place) (*capture.Session, error) {
	node, isNode := lab.Topology.Nodes[place.Machine]
	if place.Port || !isNode {
		return p.base.Capture(ctx, lab, place)
	}
	if isWindows(lab.Topology, place.Machine) {
		s, err := p.captureWindows(ctx, lab, place)
		if err != nil {
			return nil, fmt.Errorf("capture at %s: %w", place, err)
		}
		return s, nil
	}
	g, err := p.guest(lab, place.Machine)
	if err != nil {
		return nil, fmt.Errorf("capture at %s: %w", place, err)
	}
	s, err := linux.Capture(ctx, g, place.Machine, node.Address)
	if err != nil {
		return nil, fmt.Errorf("capture at %s: %w", place, err)
	}
	return s, nil
}

// system is a node's, whose console is one of its logs.
type system struct {
	*linux.System
	dir string
}

// Logs returns what the machine's daemons and its console wrote.
func (s system) Logs(ctx context.Context) (map[string]io.ReadCloser, error) {
	logs, err := s.System.Logs(ctx)
	return withConsole(logs, err, s.dir)
}

// withConsole adds the console to what the daemons wrote, if that could be had.
func withConsole(logs map[string]io.ReadCloser, err error, dir string) (map[string]io.ReadCloser, error) {
	if logs == nil {
		// A machine that does not answer has its console all the more.
		logs = map[string]io.ReadCloser{}
	}
	console, openErr := os.Open(filepath.Join(dir, "console.log"))
	if openErr != nil {
		return logs, err
	}
	logs["console"] = console
	if err != nil {
		logs["daemons"] = io.NopCloser(strings.NewReader("they cannot be read: " + err.Error() + "\n"))
	}
	return logs, nil
}
