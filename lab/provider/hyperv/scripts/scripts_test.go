package scripts_test

import (
	"testing"

	"l4lab/lab/provider/hyperv/scripts"
)

func TestEveryVerbHasAScriptOfItsOwn(t *testing.T) {
	if _, err := scripts.New().Contracts(); err != nil {
		t.Fatal(err)
	}
}
