package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// A Stream is a sequence of messages: a kind, the length of what follows (32
// bits), and that. Numbers are big-endian. The encoding is our own, since
// encoding/gob makes its tables at each start of a program, whether it captures
// or not.
const (
	// kindReady is the first message: streamMagic and the version (16 bits).
	kindReady = 'R'
	// kindFrames is frames, one after the other, each a frameHeader and its data.
	kindFrames = 'F'
	// kindEnd is the last message: the numbers of recorded and dropped
	// frames (64 bits each) and an error's text, empty for none.
	kindEnd = 'E'

	kinds = "RFE"
)

const (
	streamMagic = "l4lab capture"
	// streamVersion is that of the encoding. Version 1 was gob's.
	streamVersion = 2
	// maxMessage bounds a message. A ring's block is 128 KiB, and hardly grows by being encoded.
	maxMessage = 16 << 20
)

// frameHeader is a frame's time (64 bits of nanoseconds since the epoch), its
// length on the interface, that of its data (32 bits each), VLAN (16) and flags (8).
const frameHeader = 8 + 4 + 4 + 2 + 1

// The flags of a frame.
const (
	flagOutgoing = 1 << iota
	flagChecksumPending
)

// errMalformed: what came is no message of a stream.
var errMalformed = errors.New("what came is no stream of a capture of this version")

// message is what a Stream is made of: first one that is Ready (or has an Error),
// then frames, and the Result at last.
type message struct {
	Version int
	Ready   bool
	Frames  []Frame
	Result  *Result
	Error   string
}

// encoder writes messages, each with one call.
type encoder struct {
	w      io.Writer
	buffer []byte
}

func newEncoder(w io.Writer) *encoder { return &encoder{w: w} }

func (e *encoder) encode(m message) error {
	b := append(e.buffer[:0], 0, 0, 0, 0, 0)
	switch {
	case m.Ready:
		b[0] = kindReady
		b = append(b, streamMagic...)
		b = binary.BigEndian.AppendUint16(b, uint16(m.Version))
	case m.Result != nil || m.Error != "":
		b[0] = kindEnd
		var r Result
		if m.Result != nil {
			r = *m.Result
		}
		b = binary.BigEndian.AppendUint64(b, r.Frames)
		b = binary.BigEndian.AppendUint64(b, r.Dropped)
		b = append(b, m.Error...)
	default:
		b[0] = kindFrames
		for _, f := range m.Frames {
			b = appendFrame(b, f)
		}
	}
	e.buffer = b
	if len(b)-5 > maxMessage {
		return fmt.Errorf("a message of %d bytes is more than %d", len(b)-5, maxMessage)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-5))
	_, err := e.w.Write(b)
	return err
}

func appendFrame(b []byte, f Frame) []byte {
	var flags byte
	if f.Outgoing {
		flags |= flagOutgoing
	}
	if f.ChecksumPending {
		flags |= flagChecksumPending
	}
	b = binary.BigEndian.AppendUint64(b, uint64(f.Time.UnixNano()))
	b = binary.BigEndian.AppendUint32(b, uint32(f.Length))
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.Data)))
	b = binary.BigEndian.AppendUint16(b, f.VLAN)
	b = append(b, flags)
	return append(b, f.Data...)
}

// decoder reads messages.
type decoder struct{ r *bufio.Reader }

func newDecoder(r io.Reader) *decoder { return &decoder{bufio.NewReader(r)} }

func (d *decoder) decode() (message, error) {
	var header [5]byte
	if _, err := io.ReadFull(d.r, header[:]); err != nil {
		return message{}, err
	}
	kind, n := header[0], binary.BigEndian.Uint32(header[1:])
	// What says something else may never send that many bytes: it is not waited for.
	if !strings.ContainsRune(kinds, rune(kind)) || n > maxMessage {
		return message{}, errMalformed
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(d.r, body); err != nil {
		return message{}, err
	}
	switch kind {
	case kindReady:
		if len(body) != len(streamMagic)+2 || string(body[:len(streamMagic)]) != streamMagic {
			return message{}, errMalformed
		}
		return message{Ready: true, Version: int(binary.BigEndian.Uint16(body[len(streamMagic):]))}, nil
	case kindFrames:
		frames, err := decodeFrames(body)
		return message{Frames: frames}, err
	case kindEnd:
		if len(body) < 16 {
			return message{}, errMalformed
		}
		return message{
			Result: &Result{Frames: binary.BigEndian.Uint64(body), Dropped: binary.BigEndian.Uint64(body[8:])},
			Error:  string(body[16:]),
		}, nil
	}
	return message{}, errMalformed
}

// decodeFrames returns frames whose data are parts of b.
func decodeFrames(b []byte) ([]Frame, error) {
	var frames []Frame
	for len(b) > 0 {
		if len(b) < frameHeader {
			return nil, errMalformed
		}
		n := binary.BigEndian.Uint32(b[12:])
		if uint64(n) > uint64(len(b)-frameHeader) {
			return nil, errMalformed
		}
		flags := b[18]
		end := frameHeader + int(n)
		frames = append(frames, Frame{
			Time:            time.Unix(0, int64(binary.BigEndian.Uint64(b))),
			Length:          int(binary.BigEndian.Uint32(b[8:])),
			Data:            b[frameHeader:end:end],
			VLAN:            binary.BigEndian.Uint16(b[16:]),
			Outgoing:        flags&flagOutgoing != 0,
			ChecksumPending: flags&flagChecksumPending != 0,
		})
		b = b[end:]
	}
	return frames, nil
}
