package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"l4lab/lab/demo"
)

// keyboard waits for keys between the steps of a walk.
type keyboard struct {
	in  io.Reader
	out io.Writer
	// raw has keys come as they are pressed and unseen, until restore is called.
	raw func() (restore func() error, err error)
}

// Keys that a terminal turns into signals, unless it is raw.
const ctrlC, ctrlBackslash = 3, 28

// wait returns when a key was pressed: for Ctrl-C as the signal would end the
// walk. It takes no key but that one: what is typed ahead waits for the next step.
func (k keyboard) wait(ctx context.Context, next demo.Step) error {
	fmt.Fprintf(k.out, "\n   press a key for step %d: %s (Ctrl-C ends)", next.Number, next.Title)
	restore, err := k.raw()
	if err != nil {
		return err
	}
	key, err := k.read(ctx)
	err = errors.Join(err, restore())
	// The prompt goes: erase its line (ECMA-48 EL).
	fmt.Fprint(k.out, "\r\x1b[K")
	switch {
	case err != nil:
		return err
	case key == ctrlC, key == ctrlBackslash:
		return &interrupted{os.Interrupt}
	}
	return nil
}

// read returns the next byte, or what ends the context meanwhile.
func (k keyboard) read(ctx context.Context) (byte, error) {
	type pressed struct {
		key byte
		err error
	}
	got := make(chan pressed, 1)
	go func() {
		var b [1]byte
		_, err := io.ReadFull(k.in, b[:])
		got <- pressed{b[0], err}
	}()
	select {
	case p := <-got:
		if p.err != nil {
			return 0, fmt.Errorf("wait for a key: %w", p.err)
		}
		return p.key, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}
