package powershell

import (
	"encoding/xml"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
)

// clixmlMark begins what powershell.exe writes on a redirected standard error
// when it was started with -EncodedCommand: its streams as XML, not as text.
const clixmlMark = "#< CLIXML"

// plainText turns what came on standard error into text. What is no CLIXML
// stays; of CLIXML the lines of the error, warning, verbose and debug streams
// remain, and progress records go. XML that ends early gives what there was.
func plainText(raw string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(raw, clixmlMark)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		document, after := rest, ""
		if end := strings.Index(rest, "</Objs>"); end >= 0 {
			document, after = rest[:end+len("</Objs>")], rest[end+len("</Objs>"):]
		}
		b.WriteString(clixmlLines(document))
		raw = after
	}
}

// clixmlLines returns the text of all <S S="stream"> elements.
func clixmlLines(document string) string {
	var b strings.Builder
	d := xml.NewDecoder(strings.NewReader(document))
	d.Strict = false
	inLine := false
	for {
		t, err := d.Token()
		if err != nil {
			return unescapeCLIXML(b.String())
		}
		switch t := t.(type) {
		case xml.StartElement:
			inLine = t.Name.Local == "S" && hasAttr(t, "S")
		case xml.EndElement:
			inLine = false
		case xml.CharData:
			if inLine {
				b.Write(t)
			}
		}
	}
}

func hasAttr(e xml.StartElement, name string) bool {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return true
		}
	}
	return false
}

// escapedUnits is one or several UTF-16 units as CLIXML escapes them ([MS-PSRP] 2.2.5.3.2).
var escapedUnits = regexp.MustCompile(`(?:_x[0-9A-Fa-f]{4}_)+`)

func unescapeCLIXML(s string) string {
	return escapedUnits.ReplaceAllStringFunc(s, func(run string) string {
		units := make([]uint16, 0, len(run)/7)
		for i := 0; i+7 <= len(run); i += 7 {
			n, _ := strconv.ParseUint(run[i+2:i+6], 16, 16) // four hex digits by the pattern
			units = append(units, uint16(n))
		}
		return string(utf16.Decode(units))
	})
}
