package pcapng

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"l4lab/lab/capture"
)

func TestFileHoldsEveryPlaceAndFrameInOrderOfTime(t *testing.T) {
	late, early := etherFrame(own, other, 9), etherFrame(own, other, 1)
	early.Outgoing, early.ChecksumPending = true, true
	var file bytes.Buffer
	err := Write(&file, []capture.Recording{
		{Place: capture.Place{Machine: "lb", Port: true}, Frames: []capture.Frame{late}},
		{Place: capture.Place{Machine: "be1"}, Frames: []capture.Frame{early}, Dropped: 4},
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(&file, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for {
		data, info, options, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		ngif, err := r.Interface(info.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, fmt.Sprint(ngif.Name, " ", data[14], " ", options.Flags.Direction, " ", options.Comments))
		if info.Timestamp.UnixNano() != time.Unix(1, int64(data[14])).UnixNano() {
			t.Errorf("time of frame %d is %v", data[14], info.Timestamp)
		}
	}
	want := []string{
		fmt.Sprint("be1 eth0 1 ", pcapgo.NgEpbFlagDirectionOutbound, " [checksum not filled in yet]"),
		fmt.Sprint("lb port 9 ", pcapgo.NgEpbFlagDirectionInbound, " []"),
	}
	if len(seen) != 2 || seen[0] != want[0] || seen[1] != want[1] {
		t.Errorf("read back %q, want %q", seen, want)
	}
	if err := Write(&file, nil); err == nil {
		t.Error("no recordings: want an error")
	}
}
