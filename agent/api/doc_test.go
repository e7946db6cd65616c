package api

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEveryRouteIsDocumentedAndNoOther(t *testing.T) {
	var source []byte
	for _, file := range []string{"handler.go", "observe.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	doc, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	var routes, documented []string
	path := ""
	for _, m := range regexp.MustCompile(`route\(mux, "([^"]+)"|http\.Method(Get|Put|Post|Delete|Patch):`).FindAllStringSubmatch(string(source), -1) {
		if m[1] != "" {
			path = m[1]
			continue
		}
		routes = append(routes, strings.ToUpper(m[2])+" "+path)
	}
	// The one that streams is no answerer.
	for _, m := range regexp.MustCompile(`mux\.HandleFunc\("(/v1/[^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		routes = append(routes, "GET "+m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^### ([A-Z]+ /v1/\S+)$`).FindAllStringSubmatch(string(doc), -1) {
		documented = append(documented, m[1])
	}
	if len(routes) < 14 {
		t.Fatalf("found only %q in the source", routes)
	}
	slices.Sort(routes)
	slices.Sort(documented)
	for _, r := range routes {
		if !slices.Contains(documented, r) {
			t.Errorf("%s is not documented", r)
		}
	}
	for _, d := range documented {
		if !slices.Contains(routes, d) {
			t.Errorf("%s is documented and not there", d)
		}
	}
	if len(documented) != len(slices.Compact(documented)) {
		t.Error("a route is documented twice")
	}
}
