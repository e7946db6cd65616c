package config

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// WatchEvery is how often a file is looked at. The kernel's own notices would be sooner, but
// follow a directory entry, not a file: editors and orchestrators replace
// both, and symbolic links above them.
const WatchEvery = 2 * time.Second

// Watcher tells when a config file is another one.
type Watcher struct {
	Path string
	// Every is WatchEvery but in tests.
	Every time.Duration
	// Ask has the file read anew at once, changed or not, as SIGHUP does.
	Ask <-chan struct{}
	Log *slog.Logger

	// seen is what the file was when it was read last.
	seen mark
}

// mark tells files apart: by their times and sizes, so that most looks cost one
// system call, and by what is in them, so that a touch is no change.
type mark struct {
	modified time.Time
	size     int64
	sum      [sha256.Size]byte
}

// NewWatcher remembers the file as it is: call it before the file is read, and no change is missed.
func NewWatcher(path string) *Watcher {
	w := &Watcher{Path: path, Every: WatchEvery, Log: slog.New(slog.DiscardHandler)}
	w.seen, _ = w.look(mark{}) // who reads the file says what is wrong with it
	return w
}

// look returns the file's mark; one that has the old one's time and size is taken to be the same.
func (w *Watcher) look(old mark) (mark, error) {
	info, err := os.Stat(w.Path)
	if err != nil {
		return old, err
	}
	now := mark{modified: info.ModTime(), size: info.Size(), sum: old.sum}
	if now == old {
		return old, nil
	}
	text, err := os.ReadFile(w.Path)
	if err != nil {
		return old, err
	}
	now.sum = sha256.Sum256(text)
	return now, nil
}

// Run calls changed after each change of the file, and when it is asked to, until ctx
// ends. A file that is missing for a while is one that is being replaced; it is logged once.
func (w *Watcher) Run(ctx context.Context, changed func(ctx context.Context, asked bool)) {
	ticker := time.NewTicker(w.Every)
	defer ticker.Stop()
	complained := false
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-w.Ask:
			asked = true
		case <-ticker.C:
		}
		now, err := w.look(w.seen)
		if err == nil && !asked && now.sum != w.seen.sum {
			now, err = w.settled(ctx, now)
		}
		if err != nil && !complained && !asked {
			w.Log.Warn("the config file cannot be looked at; the agent goes on with what it read before", "file", w.Path, "error", reason(err))
		}
		complained = err != nil
		other := now.sum != w.seen.sum
		w.seen = now
		if asked || other {
			changed(ctx, asked)
		}
	}
}

// settle is how long a file must be the same to be taken for written.
const settle = 100 * time.Millisecond

// settled waits until a file that is being written is not.
func (w *Watcher) settled(ctx context.Context, now mark) (mark, error) {
	for {
		select {
		case <-ctx.Done():
			return w.seen, nil
		case <-time.After(settle):
		}
		next, err := w.look(now)
		if err != nil {
			return w.seen, err
		}
		if next == now {
			return now, nil
		}
		now = next
	}
}

func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}
