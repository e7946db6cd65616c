package datapath

import (
	"errors"

	"golang.org/x/sys/unix"
)

// isFull: a hash table answers E2BIG when it has no room, a trie ENOSPC.
func isFull(err error) bool { return errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) }
