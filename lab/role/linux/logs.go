package linux

import (
	"context"
	"io"
	"strings"
)

// logLines is how much of a unit's journal Logs returns.
const logLines = "5000"

// Logs returns what the machine's daemons wrote, by the daemon's name ("agent",
// "web", "decap"): the last 5,000 lines that its journal has of each.
func (s *System) Logs(ctx context.Context) (map[string]io.ReadCloser, error) {
	logs := map[string]io.ReadCloser{}
	for name, unit := range map[string]string{"agent": agentUnit, "web": webUnit, "decap": decapUnit} {
		state, err := s.show(ctx, unit)
		if err != nil {
			return nil, err
		}
		if state.load == "not-found" {
			continue
		}
		out, err := s.run(ctx, nil, "journalctl", "--unit", unit, "--lines", logLines, "--no-pager", "--quiet", "--output", "cat")
		if err != nil {
			return nil, s.errorf("read the journal of %s: %w", unit, err)
		}
		logs[name] = io.NopCloser(strings.NewReader(out))
	}
	return logs, nil
}
