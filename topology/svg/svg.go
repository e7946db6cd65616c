// Package svg writes figures of boxes, lines and text. A figure is whole in itself:
// it can stand in an HTML page or be a file; it carries its colours for light, dark
// and paper, and its words for who cannot see it.
package svg

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// style is the same in each figure, so that several in one page agree. The names are
// under .l4, since a style in an inline figure is the whole page's.
const style = `.l4{--ink:#17212b;--soft:#56646f;--paper:#fff;--line:#7d8b97;--fill:#f4f7fa;--lb:#0b62c4;--lbfill:#e8f1fc;--be:#1c7a43;--befill:#e8f5ec;--cl:#8a4b08;--clfill:#fdf2e3;--mark:#b3123f;--outer:#6a35b5;--outerfill:#f2ebfb}
@media screen and (prefers-color-scheme:dark){.l4{--ink:#e6edf3;--soft:#a3b1bd;--paper:#11171d;--line:#75838f;--fill:#1a222a;--lb:#7ab6ff;--lbfill:#14263c;--be:#74d69b;--befill:#12281b;--cl:#f0b771;--clfill:#2d2113;--mark:#ff8fab;--outer:#c7a6ff;--outerfill:#241a35}}
.l4 text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--ink)}
.l4 .mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:11.5px}
.l4 .small{font-size:11px}.l4 .tiny{font-size:10px}
.l4 .name{font-size:15px;font-weight:650}.l4 .soft{fill:var(--soft)}
.l4 .mark{fill:var(--mark);font-weight:700;text-decoration:underline}
.l4 .paper{fill:var(--paper)}
.l4 .box{fill:var(--fill);stroke:var(--line)}.l4 .lb{fill:var(--lbfill);stroke:var(--lb)}.l4 .be{fill:var(--befill);stroke:var(--be)}.l4 .cl{fill:var(--clfill);stroke:var(--cl)}
.l4 .outer{fill:var(--outerfill);stroke:var(--outer)}.l4 text.outer{fill:var(--outer);stroke:none;font-weight:650}
.l4 .wire{fill:none;stroke:var(--line);stroke-width:1.5}.l4 .dash{stroke-dasharray:4 4}
.l4 .request{stroke:var(--lb);fill:var(--lb);stroke-width:2}.l4 .reply{stroke:var(--be);fill:var(--be);stroke-width:2}`

// Anchor is where a text's position is.
type Anchor string

// The anchors.
const (
	Start  Anchor = "start"
	Middle Anchor = "middle"
	End    Anchor = "end"
)

// Figure is a drawing in the making; lengths are in CSS pixels. Classes are those of
// the style: box, lb, be, cl, outer for boxes; wire, dash, request, reply for lines;
// name, mono, small, tiny, soft, mark, outer for text.
type Figure struct {
	width, height float64
	title         string
	body          strings.Builder
}

// New begins a figure; the title says in words what is to be seen.
func New(width, height float64, title string) *Figure {
	return &Figure{width: width, height: height, title: title}
}

// Box draws a rectangle with round corners; words, when given, show under a pointer.
func (f *Figure) Box(x, y, width, height float64, class, words string) {
	fmt.Fprintf(&f.body, `<rect x="%g" y="%g" width="%g" height="%g" rx="6" class="%s"`, x, y, width, height, Escape(class))
	if words == "" {
		f.body.WriteString("/>\n")
		return
	}
	fmt.Fprintf(&f.body, "><title>%s</title></rect>\n", Escape(words))
}

// Line draws a polyline through pairs of coordinates.
func (f *Figure) Line(class string, points ...float64) {
	f.body.WriteString(`<polyline class="` + Escape(class) + `" points="`)
	for i := 0; i+1 < len(points); i += 2 {
		fmt.Fprintf(&f.body, "%g,%g ", points[i], points[i+1])
	}
	f.body.WriteString("\"/>\n")
}

// Arrow draws a level line with a head at its second end.
func (f *Figure) Arrow(class string, from, to, y float64) {
	back := 9.0
	if to > from {
		back = -9
	}
	fmt.Fprintf(&f.body, `<line class="%[1]s" x1="%[2]g" y1="%[3]g" x2="%[4]g" y2="%[3]g"/><polygon class="%[1]s" points="%[5]g,%[3]g %[4]g,%[6]g %[4]g,%[7]g"/>`+"\n",
		Escape(class), from, y, to+back, to, y-5, y+5)
}

// Span is a stretch of text with a class of its own.
type Span struct{ Text, Class string }

// Text writes spans on one line.
func (f *Figure) Text(x, y float64, anchor Anchor, class string, spans ...Span) {
	fmt.Fprintf(&f.body, `<text x="%g" y="%g" text-anchor="%s" class="%s" xml:space="preserve">`, x, y, anchor, Escape(class))
	for _, s := range spans {
		if s.Class == "" {
			f.body.WriteString(Escape(s.Text))
			continue
		}
		fmt.Fprintf(&f.body, `<tspan class="%s">%s</tspan>`, Escape(s.Class), Escape(s.Text))
	}
	f.body.WriteString("</text>\n")
}

// Plain is a text without classes.
func Plain(text string) Span { return Span{Text: text} }

// String is the figure, an svg element that is a file too.
func (f *Figure) String() string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]g %[2]g" width="%[1]g" height="%[2]g" class="l4" role="img" aria-label="%[3]s">
<title>%[3]s</title>
<style>%[4]s</style>
<rect width="%[1]g" height="%[2]g" rx="8" class="paper"/>
%[5]s</svg>
`, f.width, f.height, Escape(f.title), style, f.body.String())
}

// Escape makes text safe in an element and in an attribute. Characters that XML does
// not have become U+FFFD.
func Escape(text string) string {
	var b strings.Builder
	// It fails when the writer does, and this one does not.
	_ = xml.EscapeText(&b, []byte(text))
	return b.String()
}

// Shortened cuts a text to as many characters, the last one an ellipsis.
func Shortened(text string, most int) string {
	r := []rune(text)
	if len(r) <= most {
		return text
	}
	return string(r[:most-1]) + "…"
}
