package transfer

import (
	"embed"
	"fmt"

	"l4lab/lab/powershell"
)

//go:embed *.ps1
var files embed.FS

// Error codes of the verbs.
const (
	// NotFound: the file is not there.
	NotFound = "notFound"
	// NoSpace: the machine's drive is full.
	NoSpace = "noSpace"
	// HashMismatch: a file's SHA-256 is not the expected one.
	HashMismatch = "hashMismatch"
)

// Verbs are what a machine is asked for, ready to run; NewVerbs returns them.
type Verbs struct {
	FileProbe   powershell.Verb[FileProbeParams, FileProbeResult]
	FileReceive powershell.Verb[FileReceiveParams, FileReceiveResult]
	FileSend    powershell.Verb[FileSendParams, FileSendResult]
}

// NewVerbs returns the verbs.
func NewVerbs() Verbs {
	return Verbs{
		FileProbe:   verb[FileProbeParams, FileProbeResult]("file-probe", true),
		FileReceive: verb[FileReceiveParams, FileReceiveResult]("file-receive", false, HashMismatch, NoSpace),
		FileSend:    verb[FileSendParams, FileSendResult]("file-send", true, NotFound),
	}
}

// List returns the verbs' contracts.
func (v Verbs) List() []powershell.Contract {
	return []powershell.Contract{v.FileProbe.Contract(), v.FileReceive.Contract(), v.FileSend.Contract()}
}

func verb[P, R any](name string, repeatable bool, codes ...string) powershell.Verb[P, R] {
	text, err := files.ReadFile(name + ".ps1")
	if err != nil {
		panic(fmt.Sprintf("script %s is not compiled in: %v", name, err))
	}
	return powershell.Verb[P, R]{Script: powershell.Script{Name: name, Text: string(text), Repeatable: repeatable}, Codes: codes}
}

// FileProbeParams ask what is there of an upload.
type FileProbeParams struct {
	Path string `json:"path"`
}

// FileProbeResult is what was found: the whole file, and how much of a part.
type FileProbeResult struct {
	Exists bool   `json:"exists"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	// PartBytes and PartSHA256 are those of PATH.part, an upload that was cut off.
	PartBytes  int64  `json:"partBytes"`
	PartSHA256 string `json:"partSHA256"`
	// Beside is how many other files and folders its folder holds.
	Beside int `json:"beside"`
}

// FileReceiveParams begin or go on with an upload. Standard input carries a gzip
// stream of the file from Offset on; it grows PATH.part, which becomes PATH
// when its hash is right. Missing folders are made.
type FileReceiveParams struct {
	Path   string `json:"path"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// FileReceiveResult is the file as it is now.
type FileReceiveResult struct {
	Bytes int64 `json:"bytes"`
}

// FileSendParams ask for a file from Offset on. Standard output carries it as
// gzip streams, one for each 48 KiB, that make one when put together (RFC 1952).
type FileSendParams struct {
	Path   string `json:"path"`
	Offset int64  `json:"offset"`
}

// FileSendResult is the whole file's size and hash.
type FileSendResult struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}
