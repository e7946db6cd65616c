package capture

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	full := Frame{Time: time.Unix(12, 345), Data: []byte{1, 2, 3}, Length: 70_000, Outgoing: true, ChecksumPending: true, VLAN: 0xffff}
	messages := []message{
		{Ready: true, Version: 7},
		{Frames: []Frame{full, {Time: time.Unix(-1, 0), Data: []byte{}}, {Time: time.Unix(0, 0), Data: []byte{9}, Length: 1, Outgoing: true}}},
		{}, // no frames
		{Frames: []Frame{{Time: time.Unix(0, 0), Data: bytes.Repeat([]byte{7}, 1<<16), Length: 1 << 16, ChecksumPending: true}}},
		{Result: &Result{Frames: 1 << 40, Dropped: 3}},
		{Result: &Result{}, Error: "größer"},
	}
	var stream bytes.Buffer
	out := newEncoder(&stream)
	for _, m := range messages {
		if err := out.encode(m); err != nil {
			t.Fatal(err)
		}
	}
	in := newDecoder(&stream)
	for i, want := range messages {
		if got, err := in.decode(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("message %d arrived as %+v, %v; was %+v", i, got, err, want)
		}
	}
	if _, err := in.decode(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last one: %v", err)
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	for _, c := range []struct{ name, stream string }{
		{"another kind, of which more would have to come", "X\x00\xff\xff\xff"},
		{"one that is too long", "F\xff\xff\xff\xff"},
		{"a greeting without the magic word", "R\x00\x00\x00\x02\x00\x02"},
		{"frames that end within a header", "F\x00\x00\x00\x03abc"},
		{"a frame that is longer than its message", "F\x00\x00\x00\x13" + strings.Repeat("\xff", frameHeader)},
		{"an end without its numbers", "E\x00\x00\x00\x01x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if m, err := newDecoder(strings.NewReader(c.stream)).decode(); !errors.Is(err, errMalformed) {
				t.Errorf("it is %+v, %v", m, err)
			}
		})
	}
	if err := newEncoder(io.Discard).encode(message{Error: strings.Repeat("x", maxMessage)}); err == nil {
		t.Error("a message that nobody would read is sent")
	}
}

func FuzzDecode(f *testing.F) {
	var stream bytes.Buffer
	out := newEncoder(&stream)
	for _, m := range []message{{Ready: true, Version: 2}, {Frames: []Frame{{Data: []byte{1}, Length: 1}}}, {Result: &Result{}, Error: "x"}} {
		if err := out.encode(m); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(stream.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		in := newDecoder(bytes.NewReader(stream))
		for {
			m, err := in.decode()
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := newEncoder(&again).encode(m); err != nil {
				t.Fatal(err)
			}
			if back, err := newDecoder(&again).decode(); err != nil || !reflect.DeepEqual(back, m) {
				t.Fatalf("%+v became %+v, %v", m, back, err)
			}
		}
	})
}
