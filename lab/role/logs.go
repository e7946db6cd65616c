package role

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"l4lab/lab/guest"
)

// LogFiles opens what a machine's daemons wrote, by the daemon's name, where
// they write to files of the guest that are called NAME.log. A daemon that has
// none was never there.
func LogFiles(ctx context.Context, g guest.Guest) (map[string]io.ReadCloser, error) {
	logs := map[string]io.ReadCloser{}
	for _, name := range []string{"agent", "web", "decap"} {
		f, err := g.Pull(ctx, name+".log")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			for _, open := range logs {
				open.Close()
			}
			return nil, err
		}
		logs[name] = f
	}
	return logs, nil
}
