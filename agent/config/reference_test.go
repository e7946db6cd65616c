package config

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write schema.json, and the reference into docs/agent.md")

const (
	docFile  = "../../docs/agent.md"
	docBegin = "<!-- config reference, written by `go test ./agent/config -run Reference -update` -->\n"
	docEnd   = "<!-- end of the config reference -->\n"
)

func TestReferenceInTheDocumentationIsTheSchemas(t *testing.T) {
	keys, err := reference()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), docBegin)
	has, after, ends := strings.Cut(rest, docEnd)
	if !found || !ends {
		t.Fatalf("%s has no place for the reference", docFile)
	}
	want := keys + "\n"
	if has == want {
		return
	}
	if !*update {
		t.Fatalf("%s is not of this schema: run go test ./agent/config -run Reference -update", docFile)
	}
	if err := os.WriteFile(docFile, []byte(before+docBegin+want+docEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
