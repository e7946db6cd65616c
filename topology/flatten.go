package topology

import (
	"fmt"
	"reflect"
	"strings"
)

// leaf is one value of a providers block with its path.
type leaf struct{ path, value string }

// leaves returns what a block says, in the order of the types' fields, without
// what is empty. Truth values are said either way: some are true by default.
func leaves(path string, v reflect.Value) []leaf {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return leaves(path, v.Elem())
	case reflect.Struct:
		var list []leaf
		for _, f := range format().Fields(v.Type()) {
			list = append(list, leaves(path+"."+f.Name, v.Field(f.Index))...)
		}
		return list
	case reflect.Slice:
		var list []leaf
		for i := range v.Len() {
			list = append(list, leaves(fmt.Sprintf("%s[%d]", path, i), v.Index(i))...)
		}
		return list
	case reflect.Bool:
	default:
		if v.IsZero() {
			return nil
		}
	}
	return []leaf{{path, fmt.Sprint(v.Interface())}}
}

// providers compares the providers' blocks.
func (d *differ) providers(old, new Providers) {
	before := map[string]string{}
	for _, l := range leaves("providers", reflect.ValueOf(old)) {
		before[l.path] = l.value
	}
	for _, l := range leaves("providers", reflect.ValueOf(new)) {
		d.compare(l.path, before[l.path], l.value)
		delete(before, l.path)
	}
	for _, l := range leaves("providers", reflect.ValueOf(old)) {
		if _, gone := before[l.path]; gone {
			d.compare(l.path, l.value, "")
		}
	}
}

// writeBlock writes a block as YAML, what is empty left out.
func writeBlock(b *strings.Builder, indent, name string, v reflect.Value) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if len(leaves("", v)) == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		for _, f := range format().Fields(v.Type()) {
			writeBlock(b, indent+"  ", f.Name, v.Field(f.Index))
		}
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = text(v.Index(i))
		}
		fmt.Fprintf(b, "%s%s: [%s]\n", indent, name, strings.Join(items, ", "))
	default:
		fmt.Fprintf(b, "%s%s: %s\n", indent, name, text(v))
	}
}

// text is a single value as YAML: in single quotes, where a backslash is one.
func text(v reflect.Value) string {
	if v.Kind() == reflect.String {
		return "'" + strings.ReplaceAll(v.String(), "'", "''") + "'"
	}
	return fmt.Sprint(v.Interface())
}
