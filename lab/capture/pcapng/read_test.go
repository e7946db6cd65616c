package pcapng

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"l4lab/lab/capture"
)

var (
	own   = net.HardwareAddr{0x00, 0x15, 0x5d, 1, 1, 1}
	other = net.HardwareAddr{0x00, 0x15, 0x5d, 1, 1, 100}
)

// etherFrame is a frame between two addresses, of a number by which it is known.
func etherFrame(from, to net.HardwareAddr, n int) capture.Frame {
	data := slices.Concat(to, from, []byte{0x08, 0x00}, bytes.Repeat([]byte{byte(n)}, 46))
	return capture.Frame{Time: time.Unix(1, int64(n)).UTC(), Data: data, Length: len(data)}
}

func TestReadGivesBackWhatWasWritten(t *testing.T) {
	frames := []capture.Frame{etherFrame(own, other, 1), etherFrame(other, own, 2), etherFrame(own, other, 3)}
	frames[1].Outgoing, frames[1].ChecksumPending = true, true
	frames[2].Data, frames[2].Length = frames[2].Data[:20], 1500
	var file bytes.Buffer
	place := capture.Place{Machine: "lb", Port: true}
	if err := Write(&file, []capture.Recording{{Place: place, Frames: frames}}); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&file, place, own)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got.Frames) != fmt.Sprint(frames) {
		t.Errorf("read back\n%v, want\n%v", got.Frames, frames)
	}
}

func TestReadDerivesADirectionThatTheFileDoesNotSay(t *testing.T) {
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for _, c := range []struct {
		name     string
		place    capture.Place
		frame    capture.Frame
		outgoing bool
	}{
		{"the machine's interface sends what bears its address", capture.Place{Machine: "lb"}, etherFrame(own, other, 1), true},
		{"the machine's interface receives what bears another", capture.Place{Machine: "lb"}, etherFrame(other, own, 1), false},
		{"its port receives what the machine sends", capture.Place{Machine: "lb", Port: true}, etherFrame(own, other, 1), false},
		{"its port sends what the machine receives", capture.Place{Machine: "lb", Port: true}, etherFrame(other, own, 1), true},
		{"its port sends a broadcast of another", capture.Place{Machine: "lb", Port: true}, etherFrame(other, broadcast, 1), true},
		{"its port receives the machine's broadcast", capture.Place{Machine: "lb", Port: true}, etherFrame(own, broadcast, 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read(bytes.NewReader(plainPcapng(t, layers.LinkTypeEthernet, c.frame)), c.place, own)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Frames) != 1 || got.Frames[0].Outgoing != c.outgoing {
				t.Errorf("read %+v, want one frame with Outgoing %v", got.Frames, c.outgoing)
			}
		})
	}
}

func TestReadSortsByTimeAndSumsUpWhatWasLost(t *testing.T) {
	var file bytes.Buffer
	w, err := pcapgo.NewNgWriterInterface(&file, pcapgo.NgInterface{Name: "a", LinkType: layers.LinkTypeEthernet}, pcapgo.NgWriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.AddInterface(pcapgo.NgInterface{Name: "b", LinkType: layers.LinkTypeEthernet})
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []int{5000, 1000} {
		f := etherFrame(own, other, n)
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: f.Time, CaptureLength: f.Length, Length: f.Length, InterfaceIndex: i}, f.Data); err != nil {
			t.Fatal(err)
		}
	}
	for i, lost := range []uint64{3, 4} {
		if err := w.WriteInterfaceStats(i*second, pcapgo.NgInterfaceStatistics{PacketsReceived: 9, PacketsDropped: lost}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&file, capture.Place{Machine: "be1"}, own)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Frames) != 2 || !got.Frames[0].Time.Before(got.Frames[1].Time) || got.Dropped != 7 {
		t.Errorf("read %d frames, %d dropped, the first at %v", len(got.Frames), got.Dropped, got.Frames)
	}
}

func TestReadRefusesWhatIsNoCaptureOfEthernet(t *testing.T) {
	whole := plainPcapng(t, layers.LinkTypeEthernet, etherFrame(own, other, 1))
	for _, c := range []struct {
		name string
		file []byte
	}{
		{"an empty file", nil},
		{"a text", []byte("this is no capture at all, and long enough")},
		{"a file cut off within a frame", whole[:len(whole)-30]},
		{"frames of another link type", plainPcapng(t, layers.LinkTypeRaw, etherFrame(own, other, 1))},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := Read(bytes.NewReader(c.file), capture.Place{Machine: "lb", Port: true}, own); err == nil {
				t.Errorf("read %+v, want an error", got)
			}
		})
	}
	if _, err := Read(bytes.NewReader(whole), capture.Place{Machine: "lb", Port: true}, nil); err == nil {
		t.Error("without the machine's MAC: want an error")
	}
}

// plainPcapng is a file as tools write it that say nothing of directions.
func plainPcapng(t testing.TB, kind layers.LinkType, f capture.Frame) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := pcapgo.NewNgWriter(&file, kind)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: f.Time, CaptureLength: len(f.Data), Length: f.Length}, f.Data); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func FuzzRead(f *testing.F) {
	f.Add(plainPcapng(f, layers.LinkTypeEthernet, etherFrame(own, other, 1)))
	var labelled bytes.Buffer
	if err := Write(&labelled, []capture.Recording{{Place: capture.Place{Machine: "lb", Port: true}, Frames: []capture.Frame{etherFrame(other, own, 2)}, Dropped: 3}}); err != nil {
		f.Fatal(err)
	}
	f.Add(labelled.Bytes())
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := Read(bytes.NewReader(file), capture.Place{Machine: "lb"}, own)
		if err != nil {
			return
		}
		for i, frame := range got.Frames {
			if frame.Length < len(frame.Data) {
				t.Errorf("frame %d is %d bytes long and holds %d", i, frame.Length, len(frame.Data))
			}
		}
	})
}
