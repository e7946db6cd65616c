package main

import (
	"os"
	"testing"
)

func TestTheHelpersPageIsCurrent(t *testing.T) {
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/helpers.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/helpers.md is not what the objects give: run make docs and commit it")
	}
}
