package capability

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the table in the README")

// The marks around the table in the README.
const (
	begin = "<!-- features:begin -->\n"
	end   = "<!-- features:end -->\n"
)

func TestTheReadmeHasTheTable(t *testing.T) {
	readme := filepath.Join("..", "..", "README.md")
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks of the table", readme)
	}
	if table == Markdown() {
		return
	}
	if !*update {
		t.Fatalf("%s has another table: run go test ./agent/capability -update", readme)
	}
	if err := os.WriteFile(readme, []byte(before+begin+Markdown()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEveryNoteIsToldOnce(t *testing.T) {
	table := Markdown()
	for _, f := range Table() {
		if !strings.Contains(table, "\n| "+f.Name+" | ") {
			t.Errorf("no row for %q", f.Name)
		}
		for _, p := range Profiles() {
			if note := f.On(p).Note; note != "" && strings.Count(table, ". "+note+"\n") != 1 {
				t.Errorf("%s on %s: its note is there %d times", f.Key, p, strings.Count(table, ". "+note+"\n"))
			}
		}
	}
}
