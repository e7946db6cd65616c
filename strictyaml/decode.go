package strictyaml

import (
	"encoding"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// position is a place in a file, both from 1.
type position struct{ line, column int }

// parentPath cuts the last .key or [index] off a path.
func parentPath(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

func childPath(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// place returns where a node's text begins. A block mapping has no text of
// its own: its place is its first key's.
func place(node ast.Node) position {
	if m, ok := node.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		node = m.Values[0].Key
	}
	tk := node.GetToken()
	if tk == nil || tk.Position == nil {
		return position{1, 1}
	}
	return position{tk.Position.Line, tk.Position.Column}
}

func (d *Reading) fault(at position, path, format string, args ...any) {
	d.bad[path] = true
	d.faults = append(d.faults, Fault{Line: at.line, Column: at.column, Path: path, Message: fmt.Sprintf(format, args...)})
}

func (d *Reading) value(node ast.Node, path string, v reflect.Value) {
	if v.Kind() != reflect.Map {
		node = unsplit(node)
	}
	if _, ok := d.places[path]; !ok {
		d.places[path] = place(node)
	}
	if node.Type() == ast.NullType {
		d.fault(d.places[path], path, "has no value: expected %s", d.wanted(v.Type()))
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		d.value(node, path, v.Elem())
		return
	}
	if field, ok := d.format.Short[v.Type()]; ok && node.Type() == ast.StringType {
		d.value(node, path, v.FieldByName(field))
		return
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(node, path, v, text)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(node, path, v)
	case reflect.Map:
		d.table(node, path, v)
	case reflect.Slice:
		d.list(node, path, v)
	case reflect.String:
		if s, ok := d.scalar(node, path, v.Type()); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		truth, ok := node.(*ast.BoolNode)
		if !ok {
			d.fault(place(node), path, "is %s: expected %s", kindOf(node), d.wanted(v.Type()))
			return
		}
		v.SetBool(truth.Value)
	default:
		d.number(node, path, v)
	}
}

// unsplit puts together what the parser takes for a mapping though it is a text: the
// 10.0.0.1:80 of {backends: [10.0.0.1:80]}. A colon that is followed by no space ends
// no key that is not in quotes (YAML 1.2, 7.3.3).
func unsplit(node ast.Node) ast.Node {
	pair, ok := node.(*ast.MappingValueNode)
	if mapping, is := node.(*ast.MappingNode); is && len(mapping.Values) == 1 && !mapping.IsFlowStyle {
		pair, ok = mapping.Values[0], true
	}
	if !ok || pair.Key == nil || pair.Value == nil {
		return node
	}
	key, value := pair.Key.GetToken(), pair.Value.GetToken()
	if key == nil || value == nil || key.Position == nil || value.Position == nil || key.Position.Line != value.Position.Line ||
		key.Type == token.SingleQuoteType || key.Type == token.DoubleQuoteType ||
		value.Position.Column != key.Position.Column+len(key.Value)+1 {
		return node
	}
	text := key.Value + ":" + value.Value
	return ast.String(token.New(text, text, key.Position))
}

// entry is one key and value of a mapping, the key's faults already reported.
type entry struct {
	name  string
	at    position
	value ast.Node
}

// entries returns a mapping's entries without those whose key is no string or
// a repetition.
func (d *Reading) entries(node ast.Node, path string, want reflect.Type) []entry {
	mapping, ok := node.(ast.MapNode)
	if !ok {
		d.fault(place(node), path, "is %s: expected %s", kindOf(node), d.wanted(want))
		return nil
	}
	var entries []entry
	first := map[string]position{}
	for it := mapping.MapRange(); it.Next(); {
		at := place(it.Key())
		key, ok := it.Key().(*ast.StringNode)
		if !ok {
			name := it.Key().GetToken().Value
			d.fault(at, childPath(path, name), "the key is %s: put it in quotes if it is a name", kindOf(it.Key()))
			continue
		}
		if before, twice := first[key.Value]; twice {
			d.fault(at, childPath(path, key.Value), "duplicate key: it is already on line %d", before.line)
			continue
		}
		first[key.Value] = at
		entries = append(entries, entry{key.Value, at, it.Value()})
	}
	return entries
}

func (d *Reading) structure(node ast.Node, path string, v reflect.Value) {
	fields := d.format.Fields(v.Type())
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		names = append(names, f.Name)
	}
	for _, e := range d.entries(node, path, v.Type()) {
		at := childPath(path, e.name)
		i := slices.Index(names, e.name)
		if advice := d.format.Refused[e.name]; i < 0 && advice != "" {
			d.fault(e.at, at, "%s", advice)
			continue
		}
		if i < 0 {
			d.fault(e.at, at, "unknown key%s; known are %s", Suggestion(e.name, names), strings.Join(names, ", "))
			continue
		}
		if e.value.Type() == ast.NullType {
			d.places[at] = e.at // nothing stands there but the key
		}
		d.value(e.value, at, v.Field(fields[i].Index))
	}
}

func (d *Reading) table(node ast.Node, path string, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	for _, e := range d.entries(node, path, v.Type()) {
		at := childPath(path, e.name)
		d.places[at] = e.at // a fault of the whole node points at its name
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(e.value, at, element)
		v.SetMapIndex(reflect.ValueOf(e.name), element)
	}
}

func (d *Reading) list(node ast.Node, path string, v reflect.Value) {
	sequence, ok := node.(*ast.SequenceNode)
	if !ok {
		d.fault(place(node), path, "is %s: expected %s", kindOf(node), d.wanted(v.Type()))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(sequence.Values), len(sequence.Values)))
	for i, element := range sequence.Values {
		d.value(element, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
	}
}

// text fills addresses and prefixes.
func (d *Reading) text(node ast.Node, path string, v reflect.Value, target encoding.TextUnmarshaler) {
	s, ok := d.scalar(node, path, v.Type())
	if !ok {
		return
	}
	if s == "" || target.UnmarshalText([]byte(s)) != nil {
		d.fault(place(node), path, "%s is not %s", Shorten(s), d.wanted(v.Type()))
	}
}

// scalar returns the text of a string. Numbers are no strings: the name 010
// would be read as 8.
func (d *Reading) scalar(node ast.Node, path string, want reflect.Type) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	hint := ""
	if _, isScalar := node.(ast.ScalarNode); isScalar && want.Kind() == reflect.String {
		hint = " (put it in quotes if it is one)"
	}
	d.fault(place(node), path, "is %s: expected %s%s", kindOf(node), d.wanted(want), hint)
	return "", false
}

func (d *Reading) number(node ast.Node, path string, v reflect.Value) {
	integer, ok := node.(*ast.IntegerNode)
	if !ok {
		d.fault(place(node), path, "is %s: expected %s", kindOf(node), d.wanted(v.Type()))
		return
	}
	written := Shorten(integer.GetToken().Value)
	switch n := integer.Value.(type) {
	case uint64:
		if v.CanUint() && !v.OverflowUint(n) {
			v.SetUint(n)
			return
		}
		if v.CanInt() && n <= math.MaxInt64 && !v.OverflowInt(int64(n)) {
			v.SetInt(int64(n))
			return
		}
	case int64:
		if v.CanInt() && !v.OverflowInt(n) {
			v.SetInt(n)
			return
		}
	}
	d.fault(place(node), path, "%s is out of range: expected %s", written, d.wanted(v.Type()))
}

// Field is a struct's field under its name in a file.
type Field struct {
	Name  string
	Index int
}

// Fields returns the fields that a file may have of a struct.
func (f Format) Fields(t reflect.Type) []Field {
	var fields []Field
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get(f.Tag), ",")
		if f.Hidden == nil || !f.Hidden(t, name) {
			fields = append(fields, Field{name, i})
		}
	}
	return fields
}

// wanted names a type for the person who writes the file.
func (d *Reading) wanted(t reflect.Type) string {
	if d.format.Wanted != nil {
		if text := d.format.Wanted(t); text != "" {
			return text
		}
	}
	switch t {
	case reflect.TypeFor[netip.Addr]():
		return "an address like 20.1.1.10"
	case reflect.TypeFor[netip.Prefix]():
		return "a subnet like 20.1.1.0/24"
	case reflect.TypeFor[netip.AddrPort]():
		return `ADDRESS:PORT like 40.1.1.1:80 or "[fd00::1]:80"`
	case reflect.TypeFor[time.Time]():
		return "a time like 2026-01-31T12:00:00Z"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.wanted(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.Struct, reflect.Map:
		return "a mapping (key: value)"
	case reflect.Slice:
		return "a list [a, b]"
	case reflect.String:
		return "a text"
	case reflect.Uint16:
		return "a number from 0 to 65535"
	default:
		return "a number"
	}
}

// kindOf names what stands in the file.
func kindOf(node ast.Node) string {
	switch node.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType:
		return "the number " + Shorten(node.GetToken().Value)
	case ast.BoolType:
		return "the truth value " + node.GetToken().Value
	case ast.NullType:
		return "empty"
	case ast.StringType, ast.LiteralType:
		return "the text " + Shorten(node.GetToken().Value)
	default:
		return "something else"
	}
}

// Shorten quotes a value for a message; a value may be as long as the file.
func Shorten(s string) string {
	if runes := []rune(s); len(runes) > 40 {
		s = string(runes[:40]) + "…"
	}
	return fmt.Sprintf("%q", s)
}
