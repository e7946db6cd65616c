package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"syscall"
)

// Format is a kind of file.
type Format struct {
	// Noun names what is in the file, in messages: "topology".
	Noun string
	// Start tells where to get one to start from: "`labctl topology` prints one".
	Start string
	// Tag is the struct tag with the fields' names: "yaml" or "json".
	Tag string
	// MaxSize bounds the file in bytes, MaxKeys its keys: the parser's time grows
	// with the square of their number, and without a bound 1 MiB can take it minutes.
	MaxSize, MaxKeys int
	// Refused has advice for keys that are unknown and that people write nevertheless.
	Refused map[string]string
	// Hidden, if not nil, says which fields of a struct cannot be in a file.
	Hidden func(t reflect.Type, name string) bool
	// Short has, of types that a text alone can stand for, the field that it sets.
	Short map[reflect.Type]string
	// Wanted, if not nil, names a type for people; "" leaves it to the package.
	Wanted func(t reflect.Type) string
}

func (f Format) hint() string {
	if f.Start == "" {
		return ""
	}
	return "; " + f.Start
}

// Load reads a file's text, or standard input's when path is "-". The name is for
// Read. An error is a *FileError.
func (f Format) Load(path string) (name string, data []byte, err error) {
	if path == "-" {
		data, err = f.readAll("stdin", os.Stdin)
		return "stdin", data, err
	}
	file, err := os.Open(path)
	if err != nil {
		return path, nil, f.openError(path, err)
	}
	defer file.Close()
	data, err = f.readAll(path, file)
	return path, data, err
}

func (f Format) openError(path string, err error) error {
	cause := err
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		cause = pathErr.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		cause = fmt.Errorf("%w%s", cause, f.hint())
	}
	return &FileError{Noun: f.Noun, File: path, Err: cause}
}

func (f Format) readAll(name string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(f.MaxSize)+1))
	if errors.Is(err, syscall.EISDIR) {
		return nil, &FileError{Noun: f.Noun, File: name, Err: fmt.Errorf("%w: name a file in it", syscall.EISDIR)}
	}
	if err != nil {
		return nil, &FileError{Noun: f.Noun, File: name, Err: fmt.Errorf("read: %w", err)}
	}
	return data, nil
}

// Reading is what became of a file. It remembers where each path stood, so that
// faults found later, in the values, have a line as well.
type Reading struct {
	format Format
	name   string
	faults Faults
	places map[string]position
	bad    map[string]bool
}

// Read fills what out points to from YAML text (JSON is YAML, too) as far as it
// can be read; name stands in the faults and is not opened.
func (f Format) Read(name string, data []byte, out any) *Reading {
	d := &Reading{format: f, name: name, places: map[string]position{}, bad: map[string]bool{}}
	if fault, bad := f.notText(data); bad {
		return d.unreadable(fault)
	}
	root, fault := f.parseTree(string(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))))
	if fault != nil {
		return d.unreadable(*fault)
	}
	d.value(root, "", reflect.ValueOf(out).Elem())
	return d
}

// unreadable is a Reading of which nothing is known but why.
func (d *Reading) unreadable(f Fault) *Reading {
	d.faults, d.bad[""] = Faults{f}, true
	return d
}

// Has says that the file has a value at a path.
func (d *Reading) Has(path string) bool {
	_, ok := d.places[path]
	return ok
}

// Before says that a path stands before another in the file.
func (d *Reading) Before(a, b string) bool {
	at, other := d.places[a], d.places[b]
	return at.line < other.line || at.line == other.line && at.column < other.column
}

// Add adds what is wrong in the values, with its place, unless the value at its path, or one that
// it is part of, could not be read: what was judged then is not what was written.
func (d *Reading) Add(faults ...Fault) {
	for _, f := range faults {
		if !d.failed(f.Path) {
			d.faults = append(d.faults, d.Placed(f))
		}
	}
}

// Placed is a fault with the file's name, and the place of its path.
func (d *Reading) Placed(f Fault) Fault {
	f.File = d.name
	f.Line, f.Column = d.locate(f.Path)
	return f
}

// Err returns all faults, in the order of the file, or nil.
func (d *Reading) Err() error {
	for i := range d.faults {
		d.faults[i].File = d.name
	}
	d.faults.sortByPlace()
	return d.faults.OrNil()
}

// failed says that the value at a path, or one that it is part of, could not be read.
func (d *Reading) failed(path string) bool {
	for ; path != ""; path = parentPath(path) {
		if d.bad[path] {
			return true
		}
	}
	return d.bad[""]
}

// locate returns where a path stands, or the nearest thing around it when it
// is missing from the file.
func (d *Reading) locate(path string) (line, column int) {
	for {
		if at, ok := d.places[path]; ok {
			return at.line, at.column
		}
		if path == "" {
			return 1, 1
		}
		path = parentPath(path)
	}
}
