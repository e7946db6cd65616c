package bpf

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// random is a number that makes Windows choose as the kernel did in the run that has
// just ended: its share of 32 bits is that of the flow's port in the pool, and modulo the
// table's size it gives a slot of the backend. A run that found no port draws one
// that is taken.
func (m *mirror) random(t testing.TB, config LBLbConfig, verdict uint32, events [][]byte) uint32 {
	t.Helper()
	ports, offset := uint64(1), uint64(0)
	if config.NatMax > config.NatMin {
		ports = uint64(config.NatMax-config.NatMin) + 1
	}
	towards, proto := m.dropped(events)
	if port := m.port(verdict, towards, proto); port > config.NatMin {
		offset = uint64(port - config.NatMin)
	}
	first := (offset<<32 + ports - 1) / ports
	table := m.table(t, events)
	if table.slots == nil {
		return uint32(first)
	}
	for n := first; n < 1<<32 && n*ports>>32 == offset; n++ {
		if table.slots[n%uint64(len(table.slots))] == table.backend {
			return uint32(n)
		}
	}
	return uint32(first)
}

// port is that of the flow that a run has opened, or one that is taken towards the
// backend of the flow that it found no port for.
func (m *mirror) port(verdict uint32, towards LBBackend, proto uint8) (port uint16) {
	six := towards.Address.Word[1]|towards.Address.Word[2]|towards.Address.Word[3] != 0
	for _, mapped := range m.maps {
		for key, value := range mapped.now.entries {
			switch mapped.name {
			case LBMapNewNat4, LBMapNat4:
				var taken LBFlow4
				_, _ = binary.Decode([]byte(key), binary.NativeEndian, &taken) // a key of that map has its size
				if verdict == xdpDrop && !six && taken.Proto == proto &&
					taken.Saddr == towards.Address.Word[0] && (towards.Port == 0 || taken.Sport == towards.Port) {
					return binary.BigEndian.Uint16([]byte(key)[unsafe.Offsetof(taken.Dport):])
				}
			case LBMapNewNat6, LBMapNat6:
				var taken LBFlow
				_, _ = binary.Decode([]byte(key), binary.NativeEndian, &taken) // a key of that map has its size
				if verdict == xdpDrop && six && taken.Proto == proto &&
					taken.Saddr == towards.Address && (towards.Port == 0 || taken.Sport == towards.Port) {
					return binary.BigEndian.Uint16([]byte(key)[unsafe.Offsetof(taken.Dport):])
				}
			case LBMapNewFlows4, LBMapNewFlows6:
				if mapped.known.entries[key] != value {
					port = binary.BigEndian.Uint16([]byte(value)[unsafe.Offsetof(LBCtEntry{}.NatPort):])
				}
			}
		}
	}
	return port
}

// dropped is the backend that a packet had been on its way to and its protocol, if a run told of it.
func (m *mirror) dropped(events [][]byte) (b LBBackend, proto uint8) {
	for _, event := range events {
		proto = event[unsafe.Offsetof(LBFlowEvent{}.Flow)+unsafe.Offsetof(LBFlow{}.Proto)]
		id := binary.NativeEndian.Uint32(event[unsafe.Offsetof(LBFlowEvent{}.BackendId):])
		_ = m.objects.Backends.Lookup(id, &b) // none is the zero one
	}
	return b, proto
}

// chosen is a service's table and the backend that a run took from it.
type chosen struct {
	slots   []uint32
	backend uint32
}

// table finds out, by the packet that a run counted for a backend or by what it told
// of one, where a service of random choice sent it; none when there is no such service.
func (m *mirror) table(t testing.TB, events [][]byte) (c chosen) {
	t.Helper()
	for _, event := range events {
		c.backend = binary.NativeEndian.Uint32(event[unsafe.Offsetof(LBFlowEvent{}.BackendId):])
	}
	for _, mapped := range m.maps {
		if mapped.name != LBMapBackendStats {
			continue
		}
		for key, value := range mapped.now.entries {
			if mapped.known.entries[key] != value {
				c.backend = binary.NativeEndian.Uint32([]byte(key))
			}
		}
	}
	var backend LBBackend
	var inner *ebpf.Map
	if c.backend == 0 || !m.anyRandom(t) || m.objects.Backends.Lookup(c.backend, &backend) != nil ||
		m.objects.Maglev.Lookup(backend.ServiceSlot, &inner) != nil {
		return chosen{}
	}
	defer inner.Close()
	slots := readTable(t, inner)
	c.slots = slots[:len(slots)-1] // their number is odd
	return c
}

func (m *mirror) anyRandom(t testing.TB) (found bool) {
	t.Helper()
	var key LBServiceKey
	var service LBService
	services := m.objects.Services.Iterate()
	for services.Next(&key, &service) {
		found = found || service.Flags&LBServiceFlagSERVICE_RANDOM != 0
	}
	must(t, services.Err())
	return found
}

// ringView reads the kernel's ring buffer without taking anything out of it: the
// records lie behind the pages of the consumer's and the producer's position.
type ringView struct {
	producer *uint64
	data     []byte
}

func viewRing(t testing.TB, ring *ebpf.Map) *ringView {
	t.Helper()
	page := os.Getpagesize()
	mapped, err := unix.Mmap(ring.FD(), int64(page), page+2*int(ring.MaxEntries()), unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	return &ringView{producer: (*uint64)(unsafe.Pointer(&mapped[0])), data: mapped[page:]}
}

func (r *ringView) end() uint64 { return atomic.LoadUint64(r.producer) }

// since copies the records from a position to the end (bpf_ringbuf.c: a header of a
// length and an offset in front of each, all of it in multiples of 8).
func (r *ringView) since(at uint64) (records [][]byte) {
	size := uint64(len(r.data)) / 2
	for end := r.end(); at < end; {
		record := r.data[at%size:]
		length := uint64(binary.NativeEndian.Uint32(record))
		records = append(records, append([]byte(nil), record[8:8+length]...))
		at += 8 + (length+7)&^7
	}
	return records
}

// sameEvents compares what was told; their times must lie in the run.
func sameEvents(kernel, windows [][]byte, from, until time.Duration) error {
	if len(kernel) != len(windows) {
		return fmt.Errorf("%d events, the kernel sent %d", len(windows), len(kernel))
	}
	m := mirroredMap{times: []uintptr{unsafe.Offsetof(LBFlowEvent{}.TimeNs)}}
	for i := range kernel {
		if !m.equal(string(kernel[i]), string(windows[i]), from, until) {
			return fmt.Errorf("events differ\nkernel  %x\nWindows %x", kernel[i], windows[i])
		}
	}
	return nil
}
