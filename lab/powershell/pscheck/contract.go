package pscheck

import (
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"l4lab/lab/powershell"
)

// Contract returns where a verb's script and its contract differ: parameters
// against the Go type's json tags and kinds, error codes against those listed
// and those in the help, properties of the result against its json tags.
// Through are tags whose properties come from data rather than from literals.
func Contract(s Script, c powershell.Contract, through ...string) []Finding {
	return slices.Concat(parameters(s, c.Params), help(s, c.Codes), codes(s, c.Codes), results(s, c.Result, through))
}

// field is a json tag with its type.
type field struct {
	name     string
	optional bool
	kind     reflect.Type
}

// fields returns a struct's json tags, those of embedded structs among them.
func fields(t reflect.Type) []field {
	var list []field
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			list = append(list, fields(f.Type)...)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		list = append(list, field{name: name, optional: strings.Contains(options, "omitempty"), kind: f.Type})
	}
	return list
}

var raw = reflect.TypeFor[json.RawMessage]()

// powershellType is the type that a parameter of a Go type must have.
func powershellType(t reflect.Type) string {
	switch {
	case t == raw, t.Kind() == reflect.Struct:
		return "psobject"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return "object[]"
	case t.Kind() == reflect.Slice:
		return powershellType(t.Elem()) + "[]"
	case t.Kind() == reflect.Int64:
		return "long"
	}
	return t.Kind().String() // string, int, bool
}

func parameters(s Script, t reflect.Type) []Finding {
	block := s.Root.child("param_block")
	if block == nil {
		return []Finding{s.finding(nil, "has no param()")}
	}
	var found []Finding
	if !strings.Contains(s.Text, "[CmdletBinding()]") {
		found = append(found, s.finding(block, "lacks [CmdletBinding()]: unknown parameters would be ignored"))
	}
	wanted := fields(t)
	list := block.child("parameter_list")
	if list == nil {
		list = &Node{}
	}
	for _, p := range list.Children {
		if p.Type != "script_parameter" {
			continue
		}
		name := variableName(s.text(p.Children[len(p.Children)-1]))
		var attributes []string
		for _, a := range p.all("attribute") {
			attributes = append(attributes, strings.Trim(s.text(a), "[]"))
		}
		if slices.Contains(reserved, name) {
			found = append(found, s.finding(p, "parameter %s has the name of an automatic variable", name))
		}
		key := name
		for _, a := range attributes {
			if alias, ok := strings.CutPrefix(a, "Alias('"); ok {
				key = strings.ToLower(strings.TrimSuffix(alias, "')"))
			}
		}
		i := slices.IndexFunc(wanted, func(f field) bool { return strings.EqualFold(f.name, key) })
		if i < 0 {
			found = append(found, s.finding(p, "parameter %s is not in %s", key, t))
			continue
		}
		found = append(found, attributesOf(s, p, key, wanted[i].kind, attributes)...)
		wanted = slices.Delete(wanted, i, i+1)
	}
	for _, f := range wanted {
		found = append(found, s.finding(block, "lacks parameter %s of %s", f.name, t))
	}
	return found
}

func attributesOf(s Script, p *Node, name string, kind reflect.Type, attributes []string) []Finding {
	var found []Finding
	need := func(attribute, reason string) {
		if !slices.ContainsFunc(attributes, func(a string) bool { return strings.EqualFold(a, attribute) }) {
			found = append(found, s.finding(p, "parameter %s lacks [%s]: %s", name, attribute, reason))
		}
	}
	need("Parameter(Mandatory)", "it would be left out in silence")
	wanted := powershellType(kind)
	if strings.HasSuffix(wanted, "[]") {
		// A nil slice of Go is null in JSON, and mandatory arrays refuse both.
		need("AllowNull()", "a list without members may be null")
		need("AllowEmptyCollection()", "a list may be empty")
		wanted = wanted[:len(wanted)-2] + "[]"
	}
	types := p.all("type_spec")
	if len(types) == 0 || !strings.EqualFold(s.text(p.all("type_literal")[0]), "["+wanted+"]") {
		found = append(found, s.finding(p, "parameter %s is not [%s]", name, wanted))
	}
	return found
}

var (
	helpErrors = regexp.MustCompile(`(?s)\nErrors: (.*?)\n(?:#>|\.)`)
	helpCode   = regexp.MustCompile(`(?:^|\s)([a-z][A-Za-z]+): `)
)

// help checks the comment-based help; its "Errors:" names exactly the codes.
func help(s Script, codes []string) []Finding {
	comment := s.Root.child("comment")
	if comment == nil || !strings.HasPrefix(s.text(comment), "<#") || comment.Start != 0 {
		return []Finding{s.finding(nil, "does not begin with comment-based help")}
	}
	var found []Finding
	text := s.text(comment)
	for _, part := range []string{"\n.SYNOPSIS\n", "\n.DESCRIPTION\n", "\nNeeds: ", "\nMakes: ", "\nReturns: ", "\nErrors: "} {
		if !strings.Contains(text, part) {
			found = append(found, s.finding(comment, "help lacks %q", strings.TrimSpace(part)))
		}
	}
	section := helpErrors.FindStringSubmatch(text)
	if section == nil {
		return found
	}
	var named []string
	for _, m := range helpCode.FindAllStringSubmatch(section[1], -1) {
		named = append(named, m[1])
	}
	for _, code := range codes {
		if !slices.Contains(named, code) {
			found = append(found, s.finding(comment, "help does not name error %s", code))
		}
	}
	for _, code := range named {
		if !slices.Contains(codes, code) {
			found = append(found, s.finding(comment, "help names error %s, which the verb does not list", code))
		}
	}
	return found
}

// codes checks that the script gives every error code that the verb lists, and no other.
func codes(s Script, listed []string) []Finding {
	var found []Finding
	var given []string
	for _, command := range s.Root.all("command") {
		name := command.child("command_name")
		if name == nil || s.text(name) != "Stop-Verb" {
			continue
		}
		literals := command.child("command_elements").all("verbatim_string_characters")
		if len(literals) == 0 {
			found = append(found, s.finding(command, "an error without a literal code"))
			continue
		}
		code := strings.Trim(s.text(literals[0]), "'")
		given = append(given, code)
		if !slices.Contains(listed, code) {
			found = append(found, s.finding(command, "gives error %s, which the verb does not list", code))
		}
	}
	for _, code := range listed {
		if !slices.Contains(given, code) {
			found = append(found, s.finding(nil, "never gives error %s, which the verb lists", code))
		}
	}
	return found
}

// results checks that one returned object has all of the result's properties,
// and that those of the types in it are made somewhere.
func results(s Script, t reflect.Type, through []string) []Finding {
	top := tags(fields(t))
	if len(top) == 0 {
		return nil
	}
	var keys []string
	whole := false
	for _, literal := range s.Root.all("hash_literal_expression") {
		own := hashKeys(s, literal)
		keys = append(keys, own...)
		whole = whole || !slices.ContainsFunc(top, func(tag string) bool { return !slices.Contains(own, tag) })
	}
	var found []Finding
	if !whole {
		found = append(found, s.finding(nil, "returns no object with all of %s", strings.Join(top, ", ")))
	}
	for _, tag := range nested(t) {
		if !slices.Contains(keys, tag) && !slices.Contains(through, tag) {
			found = append(found, s.finding(nil, "makes no property %s of %s", tag, t))
		}
	}
	return found
}

// tags are the names of the fields that must be there.
func tags(list []field) []string {
	var names []string
	for _, f := range list {
		if !f.optional {
			names = append(names, f.name)
		}
	}
	return names
}

// nested are the tags of a type and of all types in it.
func nested(t reflect.Type) []string {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	names := tags(fields(t))
	for _, f := range fields(t) {
		names = append(names, nested(f.kind)...)
	}
	return names
}

// hashKeys are the keys of one hash literal, not of those in it.
func hashKeys(s Script, literal *Node) []string {
	var keys []string
	body := literal.child("hash_literal_body")
	if body == nil {
		return nil
	}
	for _, entry := range body.Children {
		if key := entry.child("key_expression"); key != nil {
			keys = append(keys, strings.Trim(s.text(key), "'"))
		}
	}
	return keys
}
