package topology

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxFileSize is the largest topology file in bytes. A thousand backends in
// ten services take a tenth of it.
const MaxFileSize = 1 << 20

// Load reads a topology from a YAML file, or from standard input when path is
// "-". It fails with a *FileError when the file cannot be read and with Faults
// when its content is wrong.
func Load(path string) (Topology, error) {
	if path == "-" {
		return load("stdin", os.Stdin)
	}
	file, err := os.Open(path)
	if err != nil {
		return Topology{}, openError(path, err)
	}
	defer file.Close()
	return load(path, file)
}

func openError(path string, err error) error {
	cause := err
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		cause = pathErr.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		cause = fmt.Errorf("%w; `labctl topology` prints one to start from", cause)
	}
	return &FileError{File: path, Err: cause}
}

func load(name string, r io.Reader) (Topology, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxFileSize+1))
	if errors.Is(err, syscall.EISDIR) {
		return Topology{}, &FileError{File: name, Err: fmt.Errorf("%w: name a file in it", syscall.EISDIR)}
	}
	if err != nil {
		return Topology{}, &FileError{File: name, Err: fmt.Errorf("read: %w", err)}
	}
	return Parse(name, data)
}

// Parse reads a topology from YAML text (JSON is YAML, too); name stands in
// the faults and is not opened. The reading is strict: unknown keys, duplicate
// keys and values of another type are faults, and so is all that Validate
// finds. Anchors, aliases, tags and merge keys are refused. Fields that may be
// left out get their defaults. An error is always Faults, all of them at once.
func Parse(name string, data []byte) (Topology, error) {
	if fault, bad := notText(data); bad {
		fault.File = name
		return Topology{}, Faults{fault}
	}
	root, fault := parseTree(string(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))))
	if fault != nil {
		fault.File = name
		return Topology{}, Faults{*fault}
	}

	d := newDecoder()
	var t Topology
	d.decode(root, "", &t)
	fillDefaults(&t, d.has)
	faults := d.faults
	for _, f := range validate(t, d.inFileOrder(t.Nodes)) {
		if d.failed(f.Path) {
			continue // the value could not be read: what Validate saw is not what was written
		}
		f.Line, f.Column = d.locate(f.Path)
		faults = append(faults, f)
	}
	for i := range faults {
		faults[i].File = name
	}
	faults.sortByPlace()
	if err := faults.orNil(); err != nil {
		return Topology{}, err
	}
	return t, nil
}

// notText says why data cannot be YAML at all.
func notText(data []byte) (Fault, bool) {
	if len(data) > MaxFileSize {
		return Fault{Message: fmt.Sprintf("is larger than %d KiB: no topology", MaxFileSize>>10)}, true
	}
	if len(data) == 0 {
		return Fault{Message: "is empty (0 bytes); `labctl topology` prints a topology to start from"}, true
	}
	line, column := 1, 1
	for offset := 0; offset < len(data); {
		r, size := utf8.DecodeRune(data[offset:])
		broken := r == utf8.RuneError && size == 1
		control := (r < ' ' || r == 0x7f) && r != '\n' && r != '\r' && r != '\t'
		if broken || control {
			return Fault{Line: line, Column: column,
				Message: fmt.Sprintf("is no text: byte 0x%02x at offset %d; a topology is YAML in UTF-8", data[offset], offset)}, true
		}
		offset += size
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
	}
	return Fault{}, false
}

// parseTree makes the syntax tree and returns its one document's body.
func parseTree(text string) (ast.Node, *Fault) {
	tokens := lexer.Tokenize(text)
	if fault := refuse(tokens); fault != nil {
		return nil, fault
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxFault(err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			at := place(doc.Body)
			return nil, &Fault{Line: at.line, Column: at.column, Message: "a second YAML document: one file describes one lab"}
		}
		body = doc.Body
	}
	if body == nil {
		return nil, &Fault{Message: "is empty: nothing but comments; `labctl topology` prints a topology to start from"}
	}
	return body, nil
}

func syntaxFault(err error) *Fault {
	var syntax *yaml.SyntaxError
	if !errors.As(err, &syntax) {
		return &Fault{Message: "is no YAML: " + err.Error()}
	}
	fault := &Fault{Message: "is no YAML: " + syntax.Message}
	if tk := syntax.Token; tk != nil && tk.Position != nil {
		fault.Line, fault.Column = tk.Position.Line, tk.Position.Column
	}
	return fault
}

// Limits on the shape of the text. The parser recurses into every level and
// its time grows with the square of the number of keys: without limits a file
// of 1 MiB can take it minutes.
const (
	maxKeys  = 20000
	maxDepth = 16
)

// refuse finds what a topology never needs and the parser would choke on.
func refuse(tokens token.Tokens) *Fault {
	keys, depth, run := 0, 0, 0
	for _, tk := range tokens {
		message := ""
		switch tk.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			message = "anchors, aliases and merge keys are not supported: write the value out"
		case token.TagType:
			message = fmt.Sprintf("the tag %s is not supported: write the value without it", strings.TrimSpace(tk.Value))
		case token.MappingKeyType:
			message = "keys written with `?` are not supported: write `key: value`"
		case token.DirectiveType:
			message = "directives (%) are not supported"
		case token.MappingValueType:
			if keys++; keys > maxKeys {
				message = fmt.Sprintf("more than %d keys: no topology", maxKeys)
			}
		case token.MappingStartType, token.SequenceStartType:
			depth++
			run++
		case token.MappingEndType, token.SequenceEndType:
			depth--
			run = 0
		case token.SequenceEntryType:
			run++
		default:
			run = 0
		}
		if depth > maxDepth || run > maxDepth {
			message = "is nested too deeply: no topology"
		}
		if message != "" {
			return &Fault{Line: tk.Position.Line, Column: tk.Position.Column, Message: message}
		}
	}
	return nil
}
