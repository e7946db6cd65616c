package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
)

// The largest request bodies, in bytes. A service with 16,384 backends of which
// all is said is about 2 MiB, 10,000 services with 10 each about 8 MiB.
const (
	maxBody         = 4 << 20
	maxServicesBody = 64 << 20
)

// decodeBody reads a request's body into what out points to; see Decode.
func decodeBody(w http.ResponseWriter, r *http.Request, limit int64, out any) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return badBody(err)
	}
	return Decode(text, out)
}

// Decode reads one JSON value, an object or a list of them, into the struct or slice that out
// points to. Unknown and repeated keys, null, wrong types and trailing data are
// refused with the name of the field: backends[2].weight, or services[4].mode in
// a list. encoding/json alone would not do: it names no field when a text such
// as an address does not parse, and lets repeated keys pass.
func Decode(text []byte, out any) error {
	value := reflect.ValueOf(out).Elem()
	dec := json.NewDecoder(bytes.NewReader(text))
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return badBody(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badBody(errors.New("more follows after its end"))
	}
	if value.Kind() == reflect.Slice {
		return decodeField("services", raw, value)
	}
	if raw[0] != '{' {
		return badBody(errors.New("want one JSON object, got " + clip(raw)))
	}
	return decodeObject("", raw, value)
}

// decodeObject decodes an object's members; their names are prefix and their keys.
func decodeObject(prefix string, raw json.RawMessage, object reflect.Value) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil { // the opening brace
		return badBody(err)
	}
	fields := fieldsOf(object)
	seen := make(map[string]bool, len(fields))
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return badBody(err)
		}
		key := token.(string) // the decoder admits nothing else as a key
		var member json.RawMessage
		if err := dec.Decode(&member); err != nil {
			return badBody(err)
		}
		field, known := fields[key]
		switch {
		case !known:
			return &Error{Field: prefix + key, Message: "unknown field", Code: http.StatusBadRequest}
		case seen[key]:
			return &Error{Field: prefix + key, Message: "given twice", Code: http.StatusBadRequest}
		}
		seen[key] = true
		if err := decodeField(prefix+key, member, field); err != nil {
			return err
		}
	}
	return nil
}

// fieldsOf returns a struct's fields by their JSON names.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	fields := make(map[string]reflect.Value, v.NumField())
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = v.Field(i)
	}
	return fields
}

// shorthand is a struct of which a text alone says one field.
type shorthand interface{ short() any }

func (b *Backend) short() any { return &b.Address }

// decodeField decodes one value; in a list each element is named: backends[2].
func decodeField(name string, raw json.RawMessage, field reflect.Value) error {
	if string(raw) == "null" {
		return &Error{Field: name, Message: "null: leave the field out instead", Code: http.StatusBadRequest}
	}
	if s, ok := field.Addr().Interface().(shorthand); ok {
		if raw[0] == '"' {
			return decodeField(name, raw, reflect.ValueOf(s.short()).Elem())
		}
		return decodeStruct(name, raw, field)
	}
	switch {
	case readsItself(field):
	case field.Kind() == reflect.Pointer:
		field.Set(reflect.New(field.Type().Elem()))
		return decodeField(name, raw, field.Elem())
	case field.Kind() == reflect.Struct:
		return decodeStruct(name, raw, field)
	case field.Kind() == reflect.Slice:
		return decodeList(name, raw, field)
	}
	if err := json.Unmarshal(raw, field.Addr().Interface()); err != nil {
		return &Error{Field: name, Message: valueFault(raw, field.Interface(), err), Code: http.StatusBadRequest}
	}
	return nil
}

// readsItself says that a type has a parser of its own, as addresses and times have.
func readsItself(field reflect.Value) bool {
	switch field.Addr().Interface().(type) {
	case encoding.TextUnmarshaler, json.Unmarshaler:
		return true
	}
	return false
}

func decodeStruct(name string, raw json.RawMessage, field reflect.Value) error {
	if raw[0] != '{' {
		return &Error{Field: name, Message: "want an object, got " + clip(raw), Code: http.StatusBadRequest}
	}
	return decodeObject(name+".", raw, field)
}

func decodeList(name string, raw json.RawMessage, field reflect.Value) error {
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return &Error{Field: name, Message: "want a list, got " + clip(raw), Code: http.StatusBadRequest}
	}
	list := reflect.MakeSlice(field.Type(), len(elements), len(elements))
	for i, element := range elements {
		if err := decodeField(fmt.Sprintf("%s[%d]", name, i), element, list.Index(i)); err != nil {
			return err
		}
	}
	field.Set(list)
	return nil
}

// UnmarshalJSON reads an object, or a text that is the address alone.
func (b *Backend) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '"' {
		return json.Unmarshal(text, &b.Address)
	}
	type object Backend // without this method
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec.Decode((*object)(b))
}

func valueFault(raw json.RawMessage, want any, err error) string {
	var wrongType *json.UnmarshalTypeError
	if !errors.As(err, &wrongType) {
		return err.Error() // the type's own parser: netip says what it misses
	}
	if _, isText := want.(encoding.TextMarshaler); isText {
		return "want a string, got " + clip(raw)
	}
	return fmt.Sprintf("want %T, got %s", want, clip(raw))
}

// clip keeps a refusal readable when a value is long.
func clip(raw json.RawMessage) string {
	const most = 60
	if len(raw) <= most {
		return string(raw)
	}
	return string(raw[:most]) + "…"
}

// noBody refuses a body where none belongs: it would be ignored in silence.
func noBody(w http.ResponseWriter, r *http.Request) error {
	n, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return badBody(err)
	}
	if n > 0 {
		return &Error{Message: r.URL.Path + " takes no body", Code: http.StatusBadRequest}
	}
	return nil
}

func badBody(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &Error{
			Message: fmt.Sprintf("the body is larger than %d bytes", large.Limit),
			Code:    http.StatusRequestEntityTooLarge,
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the body ends too early")
	}
	return &Error{Message: "not the JSON that is wanted here: " + err.Error(), Code: http.StatusBadRequest}
}
