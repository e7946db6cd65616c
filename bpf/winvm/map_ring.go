package winvm

import (
	"encoding/binary"
)

// ring is a ring buffer (libs/runtime/ebpf_ring_buffer.c): records behind a
// header of 8 bytes, padded to 8, between two offsets that only grow. efW maps the
// buffer twice in a row, so that no record is cut; here record puts it together.
type ring struct {
	data               []byte
	consumer, producer uint64
	lost               uint64
}

const (
	ringHeader    = 8
	ringMaxRecord = 1<<30 - 1 // EBPF_RINGBUF_MAX_RECORD_SIZE
)

func ringRecord(length uint64) uint64 { return (ringHeader + length + 7) &^ 7 }

// output is ebpf_ring_buffer_output, of up to two pieces.
func (r *ring) output(record, more []byte) Code {
	length := uint64(len(record) + len(more))
	need := ringRecord(length)
	if length == 0 || length > ringMaxRecord || need > uint64(len(r.data)) {
		return InvalidArgument
	}
	if r.producer+need-r.consumer > uint64(len(r.data)) {
		return NoMemory
	}
	var header [ringHeader]byte
	binary.LittleEndian.PutUint32(header[:], uint32(length))
	r.write(r.producer, header[:])
	r.write(r.producer+ringHeader, record)
	r.write(r.producer+ringHeader+uint64(len(record)), more)
	r.producer += need
	return success
}

func (r *ring) write(at uint64, b []byte) {
	at %= uint64(len(r.data))
	if n := copy(r.data[at:], b); n < len(b) {
		copy(r.data, b[n:])
	}
}

func (r *ring) read(at uint64, b []byte) {
	at %= uint64(len(r.data))
	if n := copy(b, r.data[at:]); n < len(b) {
		copy(b[n:], r.data)
	}
}

// next takes the oldest record off the ring.
func (r *ring) next() (record []byte, ok bool) {
	if r.consumer == r.producer {
		return nil, false
	}
	var header [ringHeader]byte
	r.read(r.consumer, header[:])
	record = make([]byte, binary.LittleEndian.Uint32(header[:]))
	r.read(r.consumer+ringHeader, record)
	r.consumer += ringRecord(uint64(len(record)))
	return record, true
}

// Read takes the oldest record off a ring buffer, or off one processor's of a
// perf_event_array, which for a ring buffer must be 0. False: there is none.
func (m *Map) Read(cpu int) (record []byte, ok bool) {
	if cpu < 0 || cpu >= len(m.rings) {
		return nil, false
	}
	return m.rings[cpu].next()
}

// Lost counts the records of a processor that found no room in a perf_event_array. A
// ring buffer counts none; there only the program learns of it.
func (m *Map) Lost(cpu int) uint64 {
	if cpu < 0 || cpu >= len(m.rings) {
		return 0
	}
	return m.rings[cpu].lost
}
