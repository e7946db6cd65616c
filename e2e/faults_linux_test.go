package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"l4lab/topology"
)

func TestEachSeededFaultStandsInTheREADMEWithTheCheckThatFindsIt(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	lab, port := topology.Default(), uint16(0)
	for _, f := range (&suite{}).seeded(&lab, &port) {
		if row := fmt.Sprintf("| %s | %s | %s |", f.name, f.mode, f.check); !strings.Contains(string(readme), row) {
			t.Errorf("README.md lacks %q", row)
		}
	}
}
