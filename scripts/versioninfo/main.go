// Command versioninfo writes the version resource of a Windows program: what
// Explorer's "Details" and (Get-Item x.exe).VersionInfo show. The linker takes
// a file named *_windows_amd64.syso beside a main package by itself, so that it
// must be written before `go build`:
//
//	go run ./scripts/versioninfo -name labctl -description "…" -version v1.2.3-4-gabcdef0 cmd/labctl
//
// The .syso is not committed: it says which commit it was built from.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/josephspurrier/goversioninfo"
)

func main() {
	name := flag.String("name", "", "the program's name without .exe")
	description := flag.String("description", "", "what it is, one line")
	version := flag.String("version", "", "what `git describe --tags --always --dirty` says")
	flag.Parse()
	if err := run(*name, *description, *version, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "versioninfo: "+err.Error())
		os.Exit(1)
	}
}

func run(name, description, version string, args []string) error {
	if name == "" || len(args) != 1 {
		return errors.New("want -name NAME and one folder")
	}
	if version == "" {
		version = "devel"
	}
	out := filepath.Join(args[0], "resource_windows_amd64.syso")
	info := resource(name, description, version)
	info.Build()
	info.Walk()
	if err := info.WriteSyso(out, "amd64"); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	return nil
}

// resource is a program's VERSIONINFO (Microsoft's reference of that name):
// the numbers, and the same as texts in U.S. English, Unicode.
func resource(name, description, version string) *goversioninfo.VersionInfo {
	n := numbers(version)
	return &goversioninfo.VersionInfo{
		FixedFileInfo: goversioninfo.FixedFileInfo{
			FileVersion: n, ProductVersion: n,
			FileFlagsMask: "3f", FileFlags: "00", FileOS: "040004", FileType: "01", FileSubType: "00",
		},
		StringFileInfo: goversioninfo.StringFileInfo{
			FileDescription: description, FileVersion: version, ProductVersion: version,
			InternalName: name, OriginalFilename: name + ".exe", ProductName: "l4lab",
			LegalCopyright: "Apache License 2.0",
		},
		VarFileInfo: goversioninfo.VarFileInfo{
			Translation: goversioninfo.Translation{LangID: goversioninfo.LngUSEnglish, CharsetID: goversioninfo.CsUnicode},
		},
	}
}

// numbers takes v1.2.3-4-gabcdef0 for 1.2.3.4, what has no such form for 0.0.0.0.
func numbers(version string) goversioninfo.FileVersion {
	form := regexp.MustCompile(`^v(\d+)\.(\d+)(?:\.(\d+))?(?:-(\d+)-g[0-9a-f]+)?`)
	var n [4]int
	if m := form.FindStringSubmatch(version); m != nil {
		for i := range n {
			// At most 16 bits each; what is longer is no version of ours.
			if v, err := strconv.ParseUint(m[i+1], 10, 16); err == nil {
				n[i] = int(v)
			}
		}
	}
	return goversioninfo.FileVersion{Major: n[0], Minor: n[1], Patch: n[2], Build: n[3]}
}
