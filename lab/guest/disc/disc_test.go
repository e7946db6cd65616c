package disc_test

import (
	"bytes"
	"testing"

	"l4lab/lab/guest/disc"
)

func TestADiscHoldsItsFilesAndFollowsFromThem(t *testing.T) {
	files := []disc.File{{Name: "user-data", Content: []byte("a")}, {Name: "lab.json", Content: bytes.Repeat([]byte("long"), 5000)}, {Name: "empty", Content: nil}}
	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if err := disc.Write(w, "L4LAB", files); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same files give two discs")
	}
	label, got, err := disc.Read(bytes.NewReader(first.Bytes()))
	if err != nil || label != "L4LAB" || len(got) != len(files) {
		t.Fatalf("label %q, %d files, %v", label, len(got), err)
	}
	for _, f := range files {
		if !bytes.Equal(got[f.Name], f.Content) {
			t.Errorf("%s has %d bytes, want %d", f.Name, len(got[f.Name]), len(f.Content))
		}
	}
	if _, _, err := disc.Read(bytes.NewReader(make([]byte, 100_000))); err == nil {
		t.Error("a file of zeros was read as a disc")
	}
}
