package main

import (
	"fmt"
	"regexp"
	"strings"
)

// line is a physical line of a C file.
type line struct {
	// code says that it holds more than blanks and comments.
	code bool
	// region is the number of the stretch between two conditional directives
	// that it lies in; the preprocessor takes or skips a region as a whole.
	region int
}

// conditional is a directive at which a region ends.
var conditional = regexp.MustCompile(`^\s*#\s*(if|ifdef|ifndef|elif|elifdef|elifndef|else|endif)\b`)

// source is a C file, cut into regions.
type source struct {
	lines   []line
	regions int
	// marked is the file with a pragma at the begin of each region, which `clang -E`
	// copies to its output when it takes the region.
	marked string
}

// mark is the pragma of a region. The preprocessor expands no macros in it.
func mark(file string, region int) string {
	return fmt.Sprintf("#pragma l4lab_region %q %d", file, region)
}

// readSource cuts a file into regions. The directives that end them count as no
// code: nothing of them is compiled for either system.
func readSource(file, text string) source {
	var s source
	var marked strings.Builder
	begin := func() {
		fmt.Fprintln(&marked, mark(file, s.regions))
		s.regions++
	}
	begin()
	inComment, continued := false, false
	for _, physical := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		directive := !inComment && !continued && conditional.MatchString(physical)
		bare, still := withoutComments(physical, inComment)
		inComment = still
		s.lines = append(s.lines, line{code: !directive && strings.TrimSpace(bare) != "", region: s.regions - 1})
		fmt.Fprintln(&marked, physical)
		continued = strings.HasSuffix(physical, `\`)
		if directive {
			begin()
		}
	}
	s.marked = marked.String()
	return s
}

// withoutComments cuts the comments out of a line, and says whether one goes on.
func withoutComments(text string, inComment bool) (code string, still bool) {
	var out strings.Builder
	var quote byte
	for i := 0; i < len(text); i++ {
		rest := text[i:]
		switch {
		case inComment:
			if strings.HasPrefix(rest, "*/") {
				inComment = false
				i++
			}
		case quote != 0:
			out.WriteByte(text[i])
			if text[i] == '\\' && i+1 < len(text) {
				i++
				out.WriteByte(text[i])
			} else if text[i] == quote {
				quote = 0
			}
		case strings.HasPrefix(rest, "/*"):
			inComment = true
			i++
		case strings.HasPrefix(rest, "//"):
			return out.String(), false
		default:
			if text[i] == '"' || text[i] == '\'' {
				quote = text[i]
			}
			out.WriteByte(text[i])
		}
	}
	return out.String(), inComment
}
