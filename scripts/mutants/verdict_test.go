package main

import (
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"

	"l4lab/e2e/mutants"
)

func TestAMutantIsCaughtByItsOwnSpecWithWhatItSays(t *testing.T) {
	says := mutants.Mutant{Name: "m", Spec: "chapter breaks", Says: "timeout"}
	check := mutants.Mutant{Name: "m", Spec: "chapter breaks", Check: "all backends are reached", Mode: "dsr"}
	spec := func(state types.SpecState, node types.NodeType, message, table string) types.SpecReport {
		return types.SpecReport{
			ContainerHierarchyTexts: []string{"labctl", "chapter"}, LeafNodeText: "breaks", LeafNodeType: types.NodeTypeIt, State: state,
			Failure: types.Failure{Message: message, FailureNodeType: node}, CapturedGinkgoWriterOutput: table,
		}
	}
	const row = "pass  dsr  10  every connection is answered\nfail  dsr  10  all backends are reached  be3 is not\n"
	for name, c := range map[string]struct {
		mutant mutants.Mutant
		spec   types.SpecReport
		todo   string
	}{
		"the text":                    {says, spec(types.SpecStateFailed, types.NodeTypeIt, "i/o timeout", ""), ""},
		"the check's row":             {check, spec(types.SpecStateFailed, types.NodeTypeIt, "is not empty", row), ""},
		"another mode's row":          {check, spec(types.SpecStateFailed, types.NodeTypeIt, "", strings.ReplaceAll(row, "dsr", "snat")), otherwords},
		"another text":                {says, spec(types.SpecStateFailed, types.NodeTypeIt, "refused", ""), otherwords},
		"a spec that passes":          {says, spec(types.SpecStatePassed, types.NodeTypeInvalid, "", ""), hole},
		"a lab that does not come up": {says, spec(types.SpecStateFailed, types.NodeTypeBeforeAll, "timeout", ""), milder},
		"a spec that hangs":           {says, spec(types.SpecStateTimedout, types.NodeTypeIt, "timeout", ""), look},
		"another spec":                {mutants.Mutant{Spec: "chapter", Says: "timeout"}, spec(types.SpecStateFailed, types.NodeTypeIt, "timeout", ""), hole},
	} {
		t.Run(name, func(t *testing.T) {
			v := result{types.SpecReports{c.spec}}.judge(verdict{mutant: c.mutant})
			if v.caught != (c.todo == "") || v.todo != c.todo {
				t.Errorf("caught: %v (%s); to do: %q, expected %q", v.caught, v.why, v.todo, c.todo)
			}
		})
	}
}

func TestTheTableHasTheSurvivorsLast(t *testing.T) {
	caught := verdict{mutant: mutants.Mutant{Name: "second", Spec: "chapter breaks"}, caught: true}
	survivor := verdict{mutant: mutants.Mutant{Name: "first"}}.not(hole, "the spec passes")
	var out strings.Builder
	if err := report(&out, []verdict{caught}); err != nil {
		t.Error(err)
	}
	out.Reset()
	err := report(&out, []verdict{survivor, caught})
	if err == nil {
		t.Error("a survivor is no error")
	}
	text := out.String()
	if strings.Index(text, "first") < strings.Index(text, "second") || !strings.Contains(text, hole) || !strings.Contains(text, "2 mutants, 1 caught, 1 not") {
		t.Errorf("printed is\n%s", text)
	}
}

func TestAnInterruptedRunSaysHowToGoOn(t *testing.T) {
	var out strings.Builder
	done := verdict{mutant: mutants.Mutant{Name: "a"}, caught: true}
	err := stopped(&out, []verdict{done}, []mutants.Mutant{{Name: "b"}, {Name: "c"}})
	if err == nil || !strings.Contains(err.Error(), "MUTANTS=b,c") || !strings.Contains(out.String(), "1 caught") {
		t.Errorf("%v; printed is\n%s", err, &out)
	}
}
