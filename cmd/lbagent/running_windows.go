package main

import (
	"errors"
	"io/fs"
)

// notRunning says that nobody serves on the pipe.
func notRunning(err error) bool { return errors.Is(err, fs.ErrNotExist) }
