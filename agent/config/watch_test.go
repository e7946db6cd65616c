package config

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// logBuffer may be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestWatcherTellsOfContentsNotOfTouches(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lb.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("lb.yaml", "one")
	ask, log := make(chan struct{}), &logBuffer{}
	w := NewWatcher(path)
	w.Every, w.Ask, w.Log = time.Millisecond, ask, slog.New(slog.NewTextHandler(log, nil))
	told := make(chan bool)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, func(ctx context.Context, asked bool) {
			select {
			case told <- asked:
			case <-ctx.Done():
			}
		})
	}()
	defer func() { stop(); <-ended }()
	expect := func(what string, asked bool) {
		t.Helper()
		select {
		case got := <-told:
			if got != asked {
				t.Errorf("%s: told, asked %t", what, got)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: not told", what)
		}
	}
	quiet := func(what string) {
		t.Helper()
		select {
		case <-told:
			t.Errorf("%s: told", what)
		case <-time.After(3 * settle):
		}
	}

	quiet("nothing happened")
	if err := os.Chtimes(path, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	quiet("a touch")
	write("lb.yaml", "three")
	expect("another text", false)
	write("new", "four4")
	if err := os.Rename(filepath.Join(dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	expect("another file in its place", false)
	ask <- struct{}{}
	expect("asked", true)
	if err := os.Rename(path, filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	quiet("it has gone")
	if text := log.String(); strings.Count(text, "cannot be looked at") != 1 {
		t.Errorf("logged once is wanted: %s", text)
	}
	if err := os.Rename(filepath.Join(dir, "away"), path); err != nil {
		t.Fatal(err)
	}
	quiet("it is back as it was")
	write("lb.yaml", "five")
	expect("it is back as another", false)
}
