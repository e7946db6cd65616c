package pattern

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
)

// The values pin the stream: an older binary on a node and a newer one beside
// the probe must agree.
func TestSHA256IsFixed(t *testing.T) {
	cases := map[string]struct {
		n    int64
		seed uint64
		want string
	}{
		"no bytes at all":      {0, 7, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		"ten megabytes seed 7": {10 << 20, 7, "60c2d15a7f9a200259ca569e6e7e4f6af6f304676602f6bb1f26966bc6fa2335"},
		"ten megabytes seed 8": {10 << 20, 8, "9a9a7e73df847f373225aa369f36dd2939a5dd41cecc61bcb03193d5c5b3ce00"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := SHA256(c.n, c.seed)
			if err != nil || got != c.want {
				t.Errorf("got %s, %v; want %s", got, err, c.want)
			}
		})
	}
}

func TestReaderDoesNotDependOnTheSizesOfReads(t *testing.T) {
	const n = 100_003
	whole, err := io.ReadAll(Reader(n, 1))
	if err != nil || len(whole) != n {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	single, err := io.ReadAll(iotest.OneByteReader(Reader(n, 1)))
	if err != nil || !bytes.Equal(whole, single) {
		t.Errorf("read byte by byte, the stream differs (%d bytes, %v)", len(single), err)
	}
	odd := make([]byte, 0, n)
	for r := Reader(n, 1); ; {
		piece := make([]byte, 4099)
		got, err := io.ReadFull(r, piece)
		odd = append(odd, piece[:got]...)
		if err != nil {
			break
		}
	}
	if !bytes.Equal(whole, odd) {
		t.Error("read in pieces of 4099 bytes, the stream differs")
	}
}
