// Package pcapng writes recordings as the files that Wireshark reads, and reads such
// files of other tools. It is apart from package capture because of the library that
// it rests on: its tables are made at each start of a program that holds them, and
// lbagent, which records but writes no such file, is started hundreds of times in a lab.
package pcapng

import (
	"fmt"
	"io"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"l4lab/lab/capture"
)

// Write writes recordings as one pcapng file, as Wireshark reads it:
// each place is an interface of that name, all frames are in order of time, and
// each carries its direction in its flags. A frame whose checksum was pending
// says so in a comment, since Wireshark will call it wrong.
func Write(w io.Writer, recordings []capture.Recording) error {
	if len(recordings) == 0 {
		return fmt.Errorf("write pcapng: there are no recordings")
	}
	var writer *pcapgo.NgWriter
	type entry struct {
		frame       capture.Frame
		interfaceID int
	}
	var entries []entry
	for i, r := range recordings {
		ngif := pcapgo.NgInterface{
			Name: r.Place.String(), LinkType: layers.LinkTypeEthernet, TimestampResolution: 9,
			Comment: fmt.Sprintf("%d frames, %d dropped", len(r.Frames), r.Dropped),
		}
		id, err := i, error(nil)
		if writer == nil {
			writer, err = pcapgo.NewNgWriterInterface(w, ngif, pcapgo.NgWriterOptions{
				SectionInfo: pcapgo.NgSectionInfo{Application: "labctl"},
			})
		} else {
			id, err = writer.AddInterface(ngif)
		}
		if err != nil {
			return fmt.Errorf("write pcapng: interface %s: %w", r.Place, err)
		}
		for _, f := range r.Frames {
			entries = append(entries, entry{frame: f, interfaceID: id})
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return a.frame.Time.Compare(b.frame.Time) })
	for _, e := range entries {
		options := pcapgo.NgPacketOptions{Flags: &pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}}
		if e.frame.Outgoing {
			options.Flags.Direction = pcapgo.NgEpbFlagDirectionOutbound
		}
		if e.frame.ChecksumPending {
			options.Comments = []string{pendingComment}
		}
		info := gopacket.CaptureInfo{
			Timestamp: e.frame.Time, CaptureLength: len(e.frame.Data), Length: e.frame.Length, InterfaceIndex: e.interfaceID,
		}
		if err := writer.WritePacketWithOptions(info, e.frame.Data, options); err != nil {
			return fmt.Errorf("write pcapng: frame of %s: %w", recordings[e.interfaceID].Place, err)
		}
	}
	if err := writer.Flush(); err != nil {
		return fmt.Errorf("write pcapng: %w", err)
	}
	return nil
}
