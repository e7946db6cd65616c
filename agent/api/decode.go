package api

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
)

// maxBody is the largest request body, in bytes. A service with 16,384
// backends is about 400 KiB.
const maxBody = 1 << 20

// decode reads a request's body, one JSON object, into the struct that out
// points to. Unknown and repeated keys, wrong types, trailing data and bodies
// over maxBody are refused with the name of the field. encoding/json alone
// would not do: it names no field when a text such as an address does not
// parse, and lets repeated keys pass.
func decode(w http.ResponseWriter, r *http.Request, out any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	start, err := dec.Token()
	if err != nil {
		return badBody(err)
	}
	if start != json.Delim('{') {
		return badBody(fmt.Errorf("want one JSON object, got %v", start))
	}
	fields := fieldsOf(reflect.ValueOf(out).Elem())
	seen := make(map[string]bool, len(fields))
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return badBody(err)
		}
		name := token.(string) // the decoder admits nothing else as a key
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return badBody(err)
		}
		field, known := fields[name]
		switch {
		case !known:
			return &Error{Field: name, Message: "unknown field", Code: http.StatusBadRequest}
		case seen[name]:
			return &Error{Field: name, Message: "given twice", Code: http.StatusBadRequest}
		}
		seen[name] = true
		if err := decodeField(name, raw, field); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return badBody(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badBody(errors.New("more follows after the JSON object"))
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

// decodeField decodes one value; in a list each element is named: backends[2].
func decodeField(name string, raw json.RawMessage, field reflect.Value) error {
	if string(raw) == "null" {
		return &Error{Field: name, Message: "null: leave the field out instead", Code: http.StatusBadRequest}
	}
	if field.Kind() != reflect.Slice {
		if err := json.Unmarshal(raw, field.Addr().Interface()); err != nil {
			return &Error{Field: name, Message: valueFault(raw, field.Interface(), err), Code: http.StatusBadRequest}
		}
		return nil
	}
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
