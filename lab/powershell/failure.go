package powershell

import (
	"fmt"
	"strings"
)

// failure is an error of reaching a machine, not of a script: which machine,
// what was attempted, what came back, what to do.
type failure struct {
	kind  error // one of the Err values
	where string
	doing string
	got   string
	todo  string
	cause error
}

func (f *failure) Error() string {
	s := fmt.Sprintf("%s: %s: %v", f.where, f.doing, f.kind)
	if f.got != "" {
		s += ": " + f.got
	}
	if f.todo != "" {
		s += "; " + f.todo
	}
	return s
}

func (f *failure) Unwrap() []error {
	if f.cause == nil {
		return []error{f.kind}
	}
	return []error{f.kind, f.cause}
}

// excerptLength is how much of an answer an error shows, at most, of its beginning and of its end.
const excerptLength = 400

// excerpt makes text short and one line.
func excerpt(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "\uFFFD")), " ")
	if len(text) <= 2*excerptLength {
		return text
	}
	head := strings.ToValidUTF8(text[:excerptLength], "")
	tail := strings.ToValidUTF8(text[len(text)-excerptLength:], "")
	return head + " […] " + tail
}

// without hides a secret in text that came from elsewhere.
func (p Password) without(text string) string {
	if p == "" {
		return text
	}
	return strings.ReplaceAll(text, string(p), hidden)
}
