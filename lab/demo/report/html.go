package report

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"strings"

	"l4lab/bpf/inventory"
)

//go:embed page.html.tmpl
var pageTemplate string

//go:embed page.css
var pageStyle string

// html renders the page: all that it shows is in it.
func (d document) html() ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{
		"css":     func() template.CSS { return template.CSS(pageStyle) },
		"drawing": inline,
		"picture": func(f figure) template.URL {
			return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(f.PNG))
		},
		"code":    code,
		"on":      func(r inventory.Row, s inventory.System) []string { return r.On(s) },
		"lower":   strings.ToLower,
		"inc":     func(i int) int { return i + 1 },
		"letter":  func(i int) string { return string(rune('a' + i)) },
		"seconds": func(s float64) string { return fmt.Sprintf("%.2f s", s) },
	}).Parse(pageTemplate)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, d); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// inline lets a drawing stand in the page: package svg has escaped it.
func inline(f figure) template.HTML { return template.HTML(f.SVG) }

// code makes <code> of what stands between back quotes.
func code(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		escaped := template.HTMLEscapeString(part)
		if i%2 == 1 {
			escaped = "<code>" + escaped + "</code>"
		}
		b.WriteString(escaped)
	}
	return template.HTML(b.String())
}
