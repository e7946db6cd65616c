package main

import (
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"

	"l4lab/agent/config"
)

// logging is a logger whose level can be set while it is used.
type logging struct {
	*slog.Logger
	level *slog.LevelVar
}

// newLogging returns a logger as a config says.
func newLogging(w io.Writer, c config.Log) *logging {
	level := new(slog.LevelVar)
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewJSONHandler(w, options)
	if c.Format == config.FormatText || c.Format != config.FormatJSON && isTerminal(w) {
		handler = slog.NewTextHandler(w, options)
	}
	l := &logging{slog.New(handler), level}
	l.set(c)
	return l
}

// set takes over the level.
func (l *logging) set(c config.Log) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err == nil {
		l.level.Set(level)
	}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
