package linux

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"l4lab/lab/guest"
)

// run runs a command and returns what it printed.
func (s *System) run(ctx context.Context, stdin io.Reader, argv ...string) (string, error) {
	var out strings.Builder
	err := s.Guest.Run(ctx, guest.Command{Argv: argv, Stdin: stdin, Stdout: &out})
	return out.String(), err
}

// unitState is how systemd sees a unit.
type unitState struct {
	load, active, sub, enabled string
	pid                        int
}

// ended says that a daemon does not run, or has just ended and is about to be
// started again.
func (u unitState) ended() bool {
	return u.active == "failed" || u.active == "inactive" || u.sub == "auto-restart"
}

// showProperties is what unitState is made of.
const showProperties = "--property=LoadState,ActiveState,SubState,UnitFileState,MainPID"

func parseShow(text string) unitState {
	var u unitState
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "LoadState":
			u.load = value
		case "ActiveState":
			u.active = value
		case "SubState":
			u.sub = value
		case "UnitFileState":
			u.enabled = value
		case "MainPID":
			u.pid, _ = strconv.Atoi(value) // 0 for none
		}
	}
	return u
}

func (s *System) show(ctx context.Context, name string) (unitState, error) {
	out, err := s.run(ctx, nil, "systemctl", "show", showProperties, name)
	if err != nil {
		return unitState{}, s.errorf("ask systemd for %s: %w", name, err)
	}
	return parseShow(out), nil
}

// installScript puts standard input in the place of the file $1, whole or not
// at all, when that differs, and says which.
const installScript = `set -eu
umask 022
new=$1.l4lab-new
trap 'rm -f "$new"' EXIT
mkdir -p "${1%/*}"
cat >"$new"
if cmp -s "$new" "$1"; then
	echo same
else
	mv -f "$new" "$1"
	case $1 in *.service) systemctl daemon-reload ;; esac
	echo written
fi`

// install writes a file of the machine's.
func (s *System) install(ctx context.Context, path, content string) (written bool, err error) {
	out, err := s.run(ctx, strings.NewReader(content), "sh", "-c", installScript, "sh", path)
	if err != nil {
		return false, s.errorf("write %s: %w", path, err)
	}
	switch strings.TrimSpace(out) {
	case "same":
		return false, nil
	case "written":
		s.Log.Info("wrote a file", "machine", s.Machine, "path", path)
		return true, nil
	}
	return false, s.errorf("write %s: the machine answers %q", path, out)
}

func unitPath(name string) string { return unitDir + "/" + name }

// ensureUnit has a unit's file be there and enabled.
func (s *System) ensureUnit(ctx context.Context, u unit) (changed bool, err error) {
	if strings.ContainsAny(u.Spec+u.At+u.Device+u.description, "\n\r") {
		return false, s.errorf("%s: a value contains a line break: %q", u.name, u.record)
	}
	if changed, err = s.install(ctx, unitPath(u.name), u.text()); err != nil {
		return false, err
	}
	state, err := s.show(ctx, u.name)
	if err != nil {
		return changed, err
	}
	if state.enabled == "enabled" {
		return changed, nil
	}
	if _, err := s.run(ctx, nil, "systemctl", "enable", u.name); err != nil {
		return changed, s.errorf("enable %s: %w", u.name, err)
	}
	return changed, nil
}

func (s *System) restart(ctx context.Context, name string) error {
	if _, err := s.run(ctx, nil, "systemctl", "restart", name); err != nil {
		return s.errorf("start %s: %w; its last words:\n%s", name, err, s.lastWords(ctx, name))
	}
	s.Log.Info("started", "machine", s.Machine, "unit", name)
	return nil
}

// lastWords is the end of what a unit logged.
func (s *System) lastWords(ctx context.Context, name string) string {
	out, err := s.run(ctx, nil, "journalctl", "--unit", name, "--lines", "20", "--no-pager", "--output", "cat")
	if err != nil {
		return fmt.Sprintf("(its journal cannot be read: %v)", err)
	}
	return strings.TrimRight(out, "\n")
}

// removeScript takes the unit $1 back, and before its file goes runs what
// follows, if anything. It can be run again after it failed half-way.
const removeScript = `set -eu
unit=$1 file=$2
shift 2
if ! [ -e "$file" ]; then exit 0; fi
systemctl stop "$unit"
if [ $# -gt 0 ] && { [ -e "$1" ] || command -v "$1" >/dev/null; }; then "$@"; fi
systemctl disable "$unit" 2>/dev/null
rm -f "$file"
systemctl daemon-reload`

func (s *System) removeUnit(ctx context.Context, name string, undo ...string) error {
	argv := append([]string{"sh", "-c", removeScript, "sh", name, unitPath(name)}, undo...)
	if _, err := s.run(ctx, nil, argv...); err != nil {
		return s.errorf("remove %s: %w", name, err)
	}
	return nil
}
