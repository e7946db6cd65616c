package datapath

import (
	"testing"

	"l4lab/bpf"
)

func TestTheStagesAreThoseOfTheObject(t *testing.T) {
	spec, err := bpf.LoadLB()
	if err != nil {
		t.Fatal(err)
	}
	contents := spec.Maps[stagesMap].Contents
	if len(contents) != len(stagePrograms) {
		t.Fatalf("the object enters %d programs, stagePrograms has %d", len(contents), len(stagePrograms))
	}
	for _, entered := range contents {
		if got := stagePrograms[entered.Key.(uint32)]; got != entered.Value {
			t.Errorf("stage %v is %q, the object has %q there", entered.Key, got, entered.Value)
		}
	}
}
