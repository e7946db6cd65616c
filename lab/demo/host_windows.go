package demo

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// system returns the system's name and version, as RtlGetVersion has it.
func system() (name, kernel string) {
	v := windows.RtlGetVersion()
	return "Windows", fmt.Sprintf("%d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
}
