package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"

	"l4lab/e2e/mutants"
)

// A mutant that names no spec of the suite would never be caught.
func TestEachMutantNamesASpec(t *testing.T) {
	needRoot(t) // TestLabctl, which is asked, does
	path := filepath.Join(t.TempDir(), "specs.json")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestLabctl$", "-ginkgo.dry-run", "-ginkgo.json-report", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var reports []types.Report
	if err := json.Unmarshal(data, &reports); err != nil || len(reports) != 1 {
		t.Fatalf("%d reports: %v", len(reports), err)
	}
	specs := make(map[string]int)
	for _, s := range reports[0].SpecReports {
		if s.LeafNodeType == types.NodeTypeIt {
			specs[strings.Join(append(s.ContainerHierarchyTexts[1:], s.LeafNodeText), " ")]++
		}
	}
	all, err := mutants.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if n := specs[m.Spec]; n != 1 {
			t.Errorf("e2e/mutants/%s.yaml: %d specs are called %q, expected one", m.Name, n, m.Spec)
		}
	}
}
