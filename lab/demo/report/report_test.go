package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"image"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	"l4lab/lab/demo"
	"l4lab/topology"
)

// hostile are texts that would do something if they were not escaped.
const hostile = "</title></style><script>alert(1)</script>\"' onload=x `a|b` ]]> ``` \x01 <img src=http://e.example/>"

// recorded is a walk with a text in every place that a lab's own words reach.
func recorded(t *testing.T, text string) demo.Record {
	t.Helper()
	picture := func(n uint8) *demo.Image {
		m := image.NewGray(image.Rect(0, 0, 4, 4))
		m.Pix[0] = n
		var b bytes.Buffer
		if err := png.Encode(&b, m); err != nil {
			t.Fatal(err)
		}
		return &demo.Image{PNG: b.Bytes(), Alt: text, Width: 4, Height: 4}
	}
	checks := func() []demo.Check { return []demo.Check{{OK: true, Text: text}} }
	return demo.Record{
		Lab: text, Provider: "netns", Emulated: []string{"lb", "be1"}, Topology: topology.Default(), MACs: macs(),
		Host: demo.Host{System: text, Kernel: "6.18", CPUs: 2, Labctl: text}, Begin: time.Date(2026, 11, 26, 2, 0, 0, 0, time.UTC), Seconds: 12,
		Steps: []demo.Step{
			{Number: 1, Key: "agent", Title: text, Command: text, There: text, Here: text, StandIn: text, Checks: checks(), Blocks: []demo.Block{{Title: text, Text: text + "\n"}}},
			{Number: 2, Key: "page", Title: "Page", Here: text, Checks: checks(), Blocks: []demo.Block{{Image: picture(1)}}},
			{Number: 3, Key: "refresh", Title: "Refresh", Here: text, Checks: checks(), Blocks: []demo.Block{
				{Image: picture(2)}, {Table: &demo.Table{Head: []string{text, "b"}, Rows: [][]string{{text, "d"}}}},
			}},
		},
		Passages: []demo.Passage{passage(t, topology.SNAT), passage(t, topology.DSR)},
		Figures:  []demo.Figure{{Name: text, Value: 1.5, Unit: text, Note: text}},
	}
}

func rendered(t *testing.T, r demo.Record) map[string][]byte {
	t.Helper()
	files, err := render(r)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestNoTextOfTheLabBecomesMarkup(t *testing.T) {
	r := recorded(t, hostile)
	r.Topology.Client.Name = hostile // what no topology file may have, the drawings must bear
	files := rendered(t, r)
	page := string(files[pageFile])
	for tokens := html.NewTokenizer(strings.NewReader(page)); ; {
		kind := tokens.Next()
		if kind == html.ErrorToken {
			if !errors.Is(tokens.Err(), io.EOF) {
				t.Fatal(tokens.Err())
			}
			break
		}
		token := tokens.Token()
		if token.Data == "script" && kind != html.TextToken {
			t.Error("the page has a script")
		}
		for _, a := range token.Attr {
			if strings.HasPrefix(a.Key, "on") || strings.Contains(a.Key, "<") {
				t.Errorf("an attribute %s of %s", a.Key, token.Data)
			}
		}
	}
	for name, data := range files {
		if strings.HasSuffix(name, ".svg") {
			wellFormed(t, name, data)
		}
	}
	if text := string(files[markdownFile]); strings.Contains(outsideFences(text), "<script") || strings.Contains(outsideFences(text), "<img") {
		t.Error("Markdown has HTML of the lab's")
	}
}

// outsideFences leaves out what Markdown shows as it is.
func outsideFences(text string) string {
	var out strings.Builder
	fence := ""
	for line := range strings.Lines(text) {
		ticks := line[:len(line)-len(strings.TrimLeft(line, "`"))]
		switch {
		case fence == "" && len(ticks) >= 3:
			fence = ticks
		case fence != "" && strings.TrimSpace(line) == fence:
			fence = ""
		case fence == "":
			out.WriteString(line)
		}
	}
	return out.String()
}

func wellFormed(t *testing.T, name string, data []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(data)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if e, ok := token.(xml.StartElement); ok && !slices.Contains([]string{"svg", "title", "style", "rect", "text", "tspan", "line", "polyline", "polygon"}, e.Name.Local) {
			t.Errorf("%s has an element %s", name, e.Name.Local)
		}
	}
}

func TestThePageNeedsNothingButItself(t *testing.T) {
	files := rendered(t, recorded(t, "text"))
	page := string(files[pageFile])
	for _, m := range regexp.MustCompile(`(?:src|href|srcset|data)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		at := m[1]
		switch {
		case strings.HasPrefix(at, "data:image/png;base64,"):
		case strings.HasPrefix(at, "#"):
			if !strings.Contains(page, `id="`+at[1:]+`"`) {
				t.Errorf("%s leads nowhere", at)
			}
		case files[at] != nil:
		default:
			t.Errorf("the page needs %s", at)
		}
	}
	for _, word := range []string{"@import", "url(", "<link", "<script"} {
		if strings.Contains(page, word) {
			t.Errorf("the page has %s", word)
		}
	}
	if len(page) > 200<<10 {
		t.Errorf("the page has %d bytes", len(page))
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#]*)\)`).FindAllStringSubmatch(string(files[markdownFile]), -1) {
		if files[m[1]] == nil {
			t.Errorf("Markdown leads to %s, which is not there", m[1])
		}
	}
}

func TestEachFigureAndPictureHasWords(t *testing.T) {
	page := string(rendered(t, recorded(t, "text"))[pageFile])
	for _, tag := range regexp.MustCompile(`<(?:img|svg) [^>]*>`).FindAllString(page, -1) {
		if !regexp.MustCompile(`(?:alt|aria-label)="[^"]+"`).MatchString(tag) {
			t.Errorf("without words: %s", tag[:80])
		}
	}
	for i := 1; i <= 4; i++ {
		if !strings.Contains(page, "Figure "+string(rune('0'+i))) {
			t.Errorf("figure %d is missing", i)
		}
	}
}

func TestACrossIsShownInBoth(t *testing.T) {
	r := recorded(t, "text")
	r.Steps[0].Checks[0].OK = false
	files := rendered(t, r)
	for _, name := range []string{pageFile, markdownFile} {
		if text := string(files[name]); !strings.Contains(text, "1 of 3 checks did not hold") || !strings.Contains(text, "✗") {
			t.Errorf("%s does not say it", name)
		}
	}
}

func TestWithoutABrowserOrPacketsThereIsStillAReport(t *testing.T) {
	r := recorded(t, "text")
	r.Passages = nil
	r.Steps = r.Steps[:1]
	files := rendered(t, r)
	if page := string(files[pageFile]); !strings.Contains(page, "asked for without one") || strings.Contains(page, `id="paths"`) {
		t.Error("the page does not say that there was no browser, or shows paths that nobody saw")
	}
	if _, err := render(demo.Record{}); err != nil {
		t.Errorf("an empty record: %v", err)
	}
}

func TestAJourneyShowsWhatEachHopChanged(t *testing.T) {
	r := recorded(t, "text")
	for _, c := range []struct {
		mode    topology.Mode
		titles  [][]string
		changed []string // of the request, from the client's leg to the backend's
	}{
		{topology.SNAT, [][]string{{"client → lb", "lb → be1"}, {"be1 → lb", "lb → client"}},
			[]string{"Ethernet source", "Ethernet destination", "IP source", "IP destination", "IP TTL", "source port"}},
		{topology.DSR, [][]string{{"client → lb", "lb → be1", "inside be1"}, {"be1 → client"}},
			[]string{"Ethernet source", "Ethernet destination", "outer IP source", "outer IP destination", "outer IP protocol", "outer IP TTL, length"}},
	} {
		list := journeys(r, passage(t, c.mode))
		if len(list) != 2 {
			t.Fatalf("%s: %d journeys", c.mode, len(list))
		}
		for i, j := range list {
			var titles []string
			for _, s := range j.Stages {
				titles = append(titles, s.Title())
			}
			if !slices.Equal(titles, c.titles[i]) {
				t.Errorf("%s %s goes %q, want %q", c.mode, j.Title, titles, c.titles[i])
			}
		}
		var changed []string
		for _, row := range list[0].Rows() {
			if row.Cells[1].Changed && row.Field != "IP checksum" && row.Field != "transport checksum" {
				changed = append(changed, row.Field)
			}
		}
		if !slices.Equal(changed, c.changed) {
			t.Errorf("%s changed %q, want %q", c.mode, changed, c.changed)
		}
	}
}

func TestTheRecordComesWithoutThePicturesThatStandBesideIt(t *testing.T) {
	r := recorded(t, "text")
	var read demo.Record
	if err := json.Unmarshal(rendered(t, r)[recordFile], &read); err != nil {
		t.Fatal(err)
	}
	if read.Steps[1].Blocks[0].Image.PNG != nil || read.Steps[1].Blocks[0].Image.Alt != "text" {
		t.Errorf("image %+v", read.Steps[1].Blocks[0].Image)
	}
	if r.Steps[1].Blocks[0].Image.PNG == nil {
		t.Error("the record itself has lost its picture")
	}
}

func TestAReportReplacesAnEarlierOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "out")
	r := recorded(t, "text")
	if err := Write(dir, r); err != nil {
		t.Fatal(err)
	}
	r.Passages = nil
	if err := Write(dir, r); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "dsr.pcapng")); err == nil {
		t.Error("a file of the earlier report is left")
	}
	if _, err := os.Stat(filepath.Join(dir, pageFile)); err != nil {
		t.Error(err)
	}
	if beside, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(beside) != 1 {
		t.Errorf("beside the report: %v, %v", beside, err)
	}
}

func TestCheckRefusesWhatIsNotOurs(t *testing.T) {
	base := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	report := filepath.Join(base, "report")
	if err := Write(report, recorded(t, "text")); err != nil {
		t.Fatal(err)
	}
	mixed := filepath.Join(base, "mixed")
	if err := Write(mixed, recorded(t, "text")); err != nil {
		t.Fatal(err)
	}
	write("mixed/notes.txt")
	empty := filepath.Join(base, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(base, "dangling")
	if err := os.Symlink(filepath.Join(base, "nowhere"), dangling); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, dir, want string }{
		{"a new folder", filepath.Join(base, "a", "b"), ""},
		{"an empty folder", empty, ""},
		{"a report", report, ""},
		{"no folder", "", "no folder is named"},
		{"a folder of somebody's", filepath.Dir(write("mine/letter.txt")), "letter.txt"},
		{"a report with somebody's file in it", mixed, "notes.txt"},
		{"a file", write("file"), "not a directory"},
		{"a folder below a file", filepath.Join(write("file2"), "x"), "not a directory"},
		{"a link to nothing", dangling, "not there"},
	} {
		err := Check(c.dir)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestTheCaptureIsThePassages(t *testing.T) {
	r := recorded(t, "text")
	got, err := pcapng.Read(bytes.NewReader(rendered(t, r)["dsr.pcapng"]), capture.Place{Machine: "lb", Port: true}, mac("lb"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Frames) == 0 {
		t.Error("no frames")
	}
}
