// Package strictyaml reads files that people write: YAML into Go values,
// strictly, with every fault that there is at once, each with its path, line and column.
// Unknown and repeated keys, values of another type, anchors, aliases, tags and
// merge keys are faults. A Format says what kind of file it is; Read fills a value
// and returns a Reading, which knows where each path stood: with it, what a caller
// finds wrong in the values gets its line as well.
package strictyaml

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// notText says why data cannot be YAML at all.
func (f Format) notText(data []byte) (Fault, bool) {
	if len(data) > f.MaxSize {
		return Fault{Message: fmt.Sprintf("is larger than %d KiB: no %s", f.MaxSize>>10, f.Noun)}, true
	}
	if len(data) == 0 {
		return Fault{Message: "is empty (0 bytes)" + f.hint()}, true
	}
	line, column := 1, 1
	for offset := 0; offset < len(data); {
		r, size := utf8.DecodeRune(data[offset:])
		broken := r == utf8.RuneError && size == 1
		control := (r < ' ' || r == 0x7f) && r != '\n' && r != '\r' && r != '\t'
		if broken || control {
			return Fault{Line: line, Column: column,
				Message: fmt.Sprintf("is no text: byte 0x%02x at offset %d; a %s is YAML in UTF-8", data[offset], offset, f.Noun)}, true
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
func (f Format) parseTree(text string) (ast.Node, *Fault) {
	tokens := lexer.Tokenize(text)
	if fault := f.refuse(tokens); fault != nil {
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
			return nil, &Fault{Line: at.line, Column: at.column, Message: "a second YAML document: one file has one " + f.Noun}
		}
		body = doc.Body
	}
	if body == nil {
		return nil, &Fault{Message: "is empty: nothing but comments" + f.hint()}
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

// maxDepth bounds the levels of the text, which the parser recurses into.
const maxDepth = 16

// refuse finds what such a file never needs and the parser would choke on.
func (f Format) refuse(tokens token.Tokens) *Fault {
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
			if keys++; keys > f.MaxKeys {
				message = fmt.Sprintf("more than %d keys: no %s", f.MaxKeys, f.Noun)
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
			message = "is nested too deeply: no " + f.Noun
		}
		if message != "" {
			return &Fault{Line: tk.Position.Line, Column: tk.Position.Column, Message: message}
		}
	}
	return nil
}
