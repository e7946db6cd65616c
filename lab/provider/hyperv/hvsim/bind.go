package hvsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// parameter is one of a script's, with what its attributes let in.
type parameter struct {
	name                               string
	emptyString, emptyCollection, null bool
}

var (
	// A script's param() block, one parameter a line, all of them mandatory.
	paramBlock = regexp.MustCompile(`(?ms)^param\(\s*$(.*?)^\)\s*$`)
	paramLine  = regexp.MustCompile(`(?m)^\s*\[Parameter\(Mandatory\)\](.*)\$(\w+),?\s*$`)
	paramAlias = regexp.MustCompile(`\[Alias\('(\w+)'\)\]`)
)

// parametersOf reads a script's param() block, by lower-case name. A parameter
// with an alias is known by that.
func parametersOf(script string) map[string]parameter {
	block := paramBlock.FindStringSubmatch(script)
	if block == nil {
		return nil
	}
	found := map[string]parameter{}
	for _, line := range paramLine.FindAllStringSubmatch(block[1], -1) {
		p := parameter{
			name: line[2], null: strings.Contains(line[1], "[AllowNull()]"),
			emptyString: strings.Contains(line[1], "[AllowEmptyString()]"), emptyCollection: strings.Contains(line[1], "[AllowEmptyCollection()]"),
		}
		if alias := paramAlias.FindStringSubmatch(line[1]); alias != nil {
			p.name = alias[1]
		}
		found[strings.ToLower(p.name)] = p
	}
	return found
}

// bind decodes a script's parameters as PowerShell binds them to its param()
// block, all of whose parameters are mandatory: a key that is no parameter, a
// parameter without a key, a value of another type, and an empty value that the
// parameter's attributes do not allow are errors. It is stricter in two ways:
// keys must have the contract's case, and objects within must have no other keys.
func bind(script string, input json.RawMessage, params any) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(input, &given); err != nil || given == nil {
		return fail("ConvertFromJsonCommand", "", "the parameters are not a JSON object")
	}
	names := parameterNames(reflect.TypeOf(params).Elem())
	for name := range given {
		if !slices.Contains(names, name) {
			return fail(idNoParameter, name, "A parameter cannot be found that matches parameter name '%s'.", name)
		}
	}
	rules := parametersOf(script)
	var missing []string
	for _, name := range names {
		value, ok := given[name]
		if !ok {
			missing = append(missing, name)
			continue
		}
		if rule, ok := rules[strings.ToLower(name)]; ok {
			if err := rule.allow(value); err != nil {
				return err
			}
		}
	}
	if len(missing) > 0 {
		return fail(idMissing, missing[0], "Cannot process command because of one or more missing mandatory parameters: %s.", strings.Join(missing, " "))
	}
	return decodeStrictly(input, params)
}

// allow refuses an empty value that a mandatory parameter without the matching
// attribute refuses (about_Functions_Advanced_Parameters).
func (p parameter) allow(value json.RawMessage) error {
	refuse := func(id, what string) error {
		return fail("ParameterArgumentValidationError"+id, p.name, "Cannot bind argument to parameter '%s' because it is %s.", p.name, what)
	}
	text := string(bytes.TrimSpace(value))
	switch {
	case text == "null" && !p.null:
		return refuse("NullNotAllowed", "null")
	case text == `""` && !p.emptyString:
		return refuse("EmptyStringNotAllowed", "an empty string")
	case text == "[]" && !p.emptyCollection:
		return refuse("EmptyArrayNotAllowed", "an empty array")
	}
	var list []any
	if json.Unmarshal(value, &list) == nil && slices.Contains(list, any("")) && !p.emptyString {
		return refuse("EmptyStringNotAllowed", "an empty string")
	}
	return nil
}

func decodeStrictly(input json.RawMessage, params any) error {
	d := json.NewDecoder(bytes.NewReader(input))
	d.DisallowUnknownFields()
	var wrong *json.UnmarshalTypeError
	switch err := d.Decode(params); {
	case errors.As(err, &wrong):
		return fail(idConversion, wrong.Field, "Cannot process argument transformation on parameter '%s'. Cannot convert a %s to %s.", wrong.Field, wrong.Value, wrong.Type)
	case err != nil:
		return fail(idConversion, "", "Cannot process argument transformation: %v.", err)
	}
	return nil
}

// parameterNames returns the JSON keys of a struct, embedded ones included.
func parameterNames(t reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous || !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// conform checks that a result is of the contract's type, and gives lists
// without elements the form that ConvertTo-Json gives them: [] and not null.
func conform(result any, want reflect.Type) (any, error) {
	v := reflect.ValueOf(result)
	if !v.IsValid() || v.Type() != want {
		return nil, fmt.Errorf("the simulation answers with a %T, and the contract says %s", result, want)
	}
	filled := reflect.New(want).Elem()
	filled.Set(v)
	fillLists(filled)
	return filled.Interface(), nil
}

func fillLists(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fillLists(v.Field(i))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			fillLists(v.Elem())
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return // bytes, or JSON as it is
		}
		if v.IsNil() {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		for i := range v.Len() {
			fillLists(v.Index(i))
		}
	}
}
