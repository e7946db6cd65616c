package apply_test

import (
	"context"
	"log/slog"
)

// cutOff is a log that panics once so many changes are made.
type cutOff struct{ left int }

func (c *cutOff) Enabled(context.Context, slog.Level) bool { return true }
func (c *cutOff) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *cutOff) WithGroup(string) slog.Handler            { return c }
func (c *cutOff) Handle(context.Context, slog.Record) error {
	if c.left == 0 {
		panic("cut off")
	}
	c.left--
	return nil
}
