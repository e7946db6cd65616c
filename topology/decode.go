package topology

import (
	"cmp"
	"encoding"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// position is a place in a file, both from 1.
type position struct{ line, column int }

// decoder fills values from a YAML syntax tree, strictly, and goes on after a
// fault so that it reports all of them. It remembers where each path stood,
// so that faults found later, in the values, have a line as well.
type decoder struct {
	faults Faults
	places map[string]position
	bad    map[string]bool
}

func newDecoder() *decoder {
	return &decoder{places: map[string]position{}, bad: map[string]bool{}}
}

// has says that the file has a value at a path.
func (d *decoder) has(path string) bool {
	_, ok := d.places[path]
	return ok
}

// failed says that the value at a path, or one that it is part of, could not be read.
func (d *decoder) failed(path string) bool {
	for ; path != ""; path = parentPath(path) {
		if d.bad[path] {
			return true
		}
	}
	return d.bad[""]
}

// locate returns where a path stands, or the nearest thing around it when it
// is missing from the file.
func (d *decoder) locate(path string) (line, column int) {
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

// inFileOrder returns the nodes' names as they stand in the file.
func (d *decoder) inFileOrder(nodes map[string]Node) []string {
	return slices.SortedFunc(maps.Keys(nodes), func(a, b string) int {
		pa, pb := d.places["nodes."+a], d.places["nodes."+b]
		return cmp.Or(cmp.Compare(pa.line, pb.line), cmp.Compare(pa.column, pb.column))
	})
}

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

func (d *decoder) fault(at position, path, format string, args ...any) {
	d.bad[path] = true
	d.faults = append(d.faults, Fault{Line: at.line, Column: at.column, Path: path, Message: fmt.Sprintf(format, args...)})
}

// decode fills what target points to with node's value.
func (d *decoder) decode(node ast.Node, path string, target any) {
	d.value(node, path, reflect.ValueOf(target).Elem())
}

func (d *decoder) value(node ast.Node, path string, v reflect.Value) {
	if _, ok := d.places[path]; !ok {
		d.places[path] = place(node)
	}
	if node.Type() == ast.NullType {
		d.fault(d.places[path], path, "has no value: expected %s", wanted(v.Type()))
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
	default:
		d.number(node, path, v)
	}
}

// entry is one key and value of a mapping, the key's faults already reported.
type entry struct {
	name  string
	at    position
	value ast.Node
}

// entries returns a mapping's entries without those whose key is no string or
// a repetition.
func (d *decoder) entries(node ast.Node, path string, want reflect.Type) []entry {
	mapping, ok := node.(ast.MapNode)
	if !ok {
		d.fault(place(node), path, "is %s: expected %s", kindOf(node), wanted(want))
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

func (d *decoder) structure(node ast.Node, path string, v reflect.Value) {
	fields := fieldsOf(v.Type())
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		names = append(names, f.name)
	}
	for _, e := range d.entries(node, path, v.Type()) {
		at := childPath(path, e.name)
		i := slices.Index(names, e.name)
		if i < 0 {
			d.fault(e.at, at, "unknown key%s; known are %s", suggestion(e.name, names), strings.Join(names, ", "))
			continue
		}
		if e.value.Type() == ast.NullType {
			d.places[at] = e.at // nothing stands there but the key
		}
		d.value(e.value, at, v.Field(fields[i].index))
	}
}

func (d *decoder) table(node ast.Node, path string, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	for _, e := range d.entries(node, path, v.Type()) {
		at := childPath(path, e.name)
		d.places[at] = e.at // a fault of the whole node points at its name
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(e.value, at, element)
		v.SetMapIndex(reflect.ValueOf(e.name), element)
	}
}

func (d *decoder) list(node ast.Node, path string, v reflect.Value) {
	sequence, ok := node.(*ast.SequenceNode)
	if !ok {
		d.fault(place(node), path, "is %s: expected %s", kindOf(node), wanted(v.Type()))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(sequence.Values), len(sequence.Values)))
	for i, element := range sequence.Values {
		d.value(element, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
	}
}

// text fills addresses and prefixes.
func (d *decoder) text(node ast.Node, path string, v reflect.Value, target encoding.TextUnmarshaler) {
	s, ok := d.scalar(node, path, v.Type())
	if !ok {
		return
	}
	if s == "" || target.UnmarshalText([]byte(s)) != nil {
		d.fault(place(node), path, "%s is not %s", shorten(s), wanted(v.Type()))
	}
}

// scalar returns the text of a string. Numbers are no strings: the name 010
// would be read as 8.
func (d *decoder) scalar(node ast.Node, path string, want reflect.Type) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	hint := ""
	if _, isScalar := node.(ast.ScalarNode); isScalar {
		hint = " (put it in quotes if it is one)"
	}
	d.fault(place(node), path, "is %s: expected %s%s", kindOf(node), wanted(want), hint)
	return "", false
}

func (d *decoder) number(node ast.Node, path string, v reflect.Value) {
	integer, ok := node.(*ast.IntegerNode)
	if !ok {
		d.fault(place(node), path, "is %s: expected %s", kindOf(node), wanted(v.Type()))
		return
	}
	written := shorten(integer.GetToken().Value)
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
	d.fault(place(node), path, "%s is out of range: expected %s", written, wanted(v.Type()))
}

// field is a struct's field under its YAML name.
type field struct {
	name  string
	index int
}

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		fields = append(fields, field{name, i})
	}
	return fields
}

// wanted names a type for the person who writes the file.
func wanted(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[netip.Addr]():
		return "an address like 20.1.1.10"
	case reflect.TypeFor[netip.Prefix]():
		return "a subnet like 20.1.1.0/24"
	}
	switch t.Kind() {
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
		return "the number " + shorten(node.GetToken().Value)
	case ast.BoolType:
		return "the truth value " + node.GetToken().Value
	case ast.NullType:
		return "empty"
	case ast.StringType, ast.LiteralType:
		return "the text " + shorten(node.GetToken().Value)
	default:
		return "something else"
	}
}

// shorten quotes a value for a message; a value may be as long as the file.
func shorten(s string) string {
	if runes := []rune(s); len(runes) > 40 {
		s = string(runes[:40]) + "…"
	}
	return fmt.Sprintf("%q", s)
}
