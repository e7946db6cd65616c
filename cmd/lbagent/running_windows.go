package main

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/windows"
)

// notRunning says that nobody serves on the socket.
func notRunning(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, windows.WSAECONNREFUSED)
}
