// Package disc writes the small ISO 9660 discs that tell guests who they are.
//
//	err := disc.Write(file, "cidata", []disc.File{{Name: "user-data", Content: text}})
//
// The same files give the same bytes, so that a disc is known by its hash.
package disc

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/kdomanski/iso9660"
)

// File is a file in a disc's root. Its name is in small letters, of at most 30
// characters: letters, digits, dashes, underscores, and one dot.
type File struct {
	Name    string
	Content []byte
}

// The primary volume descriptor (ECMA-119 8.4): its place, and within it
// what differs from one writing to the next, the name of the system and the times.
const (
	descriptorAt       = 16 * 2048
	systemIdentifierAt = 8
	timesAt            = 813
	timesLength        = 4 * 17
)

// Write writes a disc whose bytes follow from label and files alone. A time of
// zeros means "not specified" (ECMA-119 8.4.26.1).
func Write(w io.Writer, label string, files []File) (err error) {
	image, err := iso9660.NewWriter() // stages the files in a folder of mode 0700
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.Cleanup()) }()
	for _, f := range files {
		if err := image.AddFile(bytes.NewReader(f.Content), f.Name); err != nil {
			return fmt.Errorf("add %s: %w", f.Name, err)
		}
	}
	var disc bytes.Buffer
	if err := image.WriteTo(&disc, label); err != nil {
		return err
	}
	descriptor := disc.Bytes()[descriptorAt : descriptorAt+2048]
	copy(descriptor[systemIdentifierAt:systemIdentifierAt+32], fmt.Sprintf("%-32s", "LINUX"))
	unspecified := append(bytes.Repeat([]byte{'0'}, 16), 0)
	copy(descriptor[timesAt:timesAt+timesLength], bytes.Repeat(unspecified, 4))
	_, err = disc.WriteTo(w)
	return err
}

// Read returns a disc's label and the files of its root, by name.
func Read(r io.ReaderAt) (label string, files map[string][]byte, err error) {
	image, err := iso9660.OpenImage(r)
	if err != nil {
		return "", nil, err
	}
	if label, err = image.Label(); err != nil {
		return "", nil, err
	}
	root, err := image.RootDir()
	if err != nil {
		return label, nil, err
	}
	children, err := root.GetChildren()
	if err != nil {
		return label, nil, err
	}
	files = map[string][]byte{}
	for _, f := range children {
		if files[f.Name()], err = io.ReadAll(f.Reader()); err != nil {
			return label, nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return label, files, nil
}
