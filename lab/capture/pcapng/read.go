package pcapng

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"l4lab/lab/capture"
)

// pendingComment is what Write says of a frame whose checksum was pending.
const pendingComment = "checksum not filled in yet"

// Read reads what one place recorded, in the order of time. All interfaces
// of the file count as that place: capturing tools make one for each component
// that they listen to.
//
// The proof needs every frame's direction. Where the file does not say it (most
// tools do not), it follows from the machine's MAC: what bears it as source, the
// machine has sent.
func Read(r io.Reader, place capture.Place, mac net.HardwareAddr) (capture.Recording, error) {
	recording := capture.Recording{Place: place}
	if err := read(r, &recording, mac); err != nil {
		return recording, fmt.Errorf("read the capture of %s: after %d frames: %w", place, len(recording.Frames), err)
	}
	slices.SortStableFunc(recording.Frames, func(a, b capture.Frame) int { return a.Time.Compare(b.Time) })
	return recording, nil
}

func read(from io.Reader, r *capture.Recording, mac net.HardwareAddr) error {
	if len(mac) != 6 {
		return fmt.Errorf("the machine's MAC %q has not 6 bytes", mac)
	}
	reader, err := pcapgo.NewNgReader(from, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
	if err != nil {
		return err
	}
	total := 0
	for {
		data, info, options, err := reader.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			r.Dropped = dropped(reader)
			return nil
		}
		if err != nil {
			return err
		}
		if kind := info.AncillaryData[0]; kind != layers.LinkTypeEthernet {
			return fmt.Errorf("a frame is not of Ethernet but of link type %v", kind)
		}
		if total += len(data); total > capture.DefaultMaxBytes {
			return fmt.Errorf("%w of %d bytes", capture.ErrMemoryBound, capture.DefaultMaxBytes)
		}
		f := capture.Frame{
			Time: info.Timestamp, Data: data, Length: max(info.Length, len(data)),
			ChecksumPending: slices.Contains(options.Comments, pendingComment),
		}
		f.Outgoing = outgoing(f, r.Place, mac, options.Flags)
		r.Frames = append(r.Frames, f)
	}
}

// outgoing is the direction, from the file or the source address. A machine's
// port on the switch sends what the machine receives.
func outgoing(f capture.Frame, place capture.Place, mac net.HardwareAddr, flags *pcapgo.NgEpbFlags) bool {
	if flags != nil {
		switch flags.Direction {
		case pcapgo.NgEpbFlagDirectionInbound:
			return false
		case pcapgo.NgEpbFlagDirectionOutbound:
			return true
		}
	}
	sent := len(f.Data) >= 12 && bytes.Equal(f.Data[6:12], mac)
	return sent != place.Port
}

// dropped is what the file's interfaces say that they lost.
func dropped(reader *pcapgo.NgReader) uint64 {
	var sum uint64
	for i := range reader.NInterfaces() {
		ngif, err := reader.Interface(i)
		if err == nil && ngif.Statistics.PacketsDropped != pcapgo.NgNoValue64 {
			sum += ngif.Statistics.PacketsDropped
		}
	}
	return sum
}
