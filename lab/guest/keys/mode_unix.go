//go:build !windows

package keys

import "io/fs"

// private says that nobody but the owner can read a file of this mode.
func private(mode fs.FileMode) bool { return mode.Perm()&0o077 == 0 }
