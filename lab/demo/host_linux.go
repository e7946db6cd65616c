package demo

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// system returns the name that os-release(5) gives, and the kernel's release.
func system() (name, kernel string) {
	name = "Linux"
	text, _ := os.ReadFile("/etc/os-release") // without it, the name is all there is
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			name = strings.Trim(value, `"'`)
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	return name, kernel
}
