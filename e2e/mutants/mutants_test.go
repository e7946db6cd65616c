package mutants

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the tree's, from here.
const root = "../.."

func TestEachMutantAppliesToTheSource(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Errorf("%d mutants; there were more", len(all))
	}
	for _, m := range all {
		if err := m.Applies(root); err != nil {
			t.Error(err)
		}
	}
}

func TestTheReadmeListsTheMutants(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed, err := List(string(readme), all)
	if err != nil {
		t.Fatal(err)
	}
	if listed != string(readme) {
		t.Error("e2e/README.md lists other mutants; run `go run ./scripts/mutants -readme e2e/README.md`")
	}
}

func TestAMutantIsAppliedAndTakenOutAgain(t *testing.T) {
	dir := t.TempDir()
	const text = "if (a)\n\treturn 1;\n"
	path := filepath.Join(dir, "a.c")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	undo, err := Mutant{Name: "m", File: "a.c", Old: "return 1", New: "return 2"}.Apply(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "if (a)\n\treturn 2;\n" {
		t.Errorf("applied, the file is %q", got)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != text {
		t.Errorf("undone, the file is %q", got)
	}
}

func TestAMutantSaysThatTheSourceHasChanged(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte("x;\nx;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ file, old, want string }{
		"the text is gone":          {"a.c", "y;", "0 times"},
		"the text is there twice":   {"a.c", "x;", "2 times"},
		"the file is gone":          {"b.c", "x;", "no such file"},
		"it names where to mend it": {"a.c", "y;", "e2e/mutants/m.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Mutant{Name: "m", File: c.file, Old: c.old}.Applies(dir)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, expected an error with %q", err, c.want)
			}
		})
	}
}

func TestAFaultyFileIsRefused(t *testing.T) {
	const good = "breaks: it\nfile: bpf/lb.c\nold: a\nnew: b\nspec: fails\nsays: no\n"
	if _, err := parse("m.yaml", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ was, is, want string }{
		"a missing spec":         {"spec: fails\n", "", "spec"},
		"an unknown key":         {"says", "sayz", "sayz"},
		"nothing that it shows":  {"says: no\n", "", "what must the failure show"},
		"a check without a mode": {"says: no", "check: it", "check and mode go together"},
		"a change that is none":  {"new: b", "new: a", "breaks nothing"},
		"a path out of the tree": {"bpf/lb.c", "../lb.c", "no path inside the tree"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse("m.yaml", []byte(strings.Replace(good, c.was, c.is, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, expected an error with %q", err, c.want)
			}
		})
	}
}
