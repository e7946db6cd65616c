package winvm_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"l4lab/bpf"
	"l4lab/bpf/winvm"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shipped loads one of the objects that ship.
func shipped(t testing.TB, name string, options winvm.Options) *winvm.Machine {
	t.Helper()
	m, err := winvm.Load(bpf.WindowsObjects()[name], options)
	must(t, err)
	return m
}

func TestTheShippedObjectsLoadWithTheirMapsAndPrograms(t *testing.T) {
	for name, object := range bpf.WindowsObjects() {
		t.Run(name, func(t *testing.T) {
			m, err := winvm.Load(object, winvm.Options{CPUs: 2})
			must(t, err)
			if len(m.Programs()) == 0 || len(m.Maps()) == 0 {
				t.Fatalf("%d programs, %d maps", len(m.Programs()), len(m.Maps()))
			}
			for _, p := range m.Programs() {
				if section := map[bool]string{true: "xdp", false: "xdp_test"}[strings.HasPrefix(name, "xdp/")]; p.Section() != section {
					t.Errorf("program %s is in section %s", p.Name(), p.Section())
				}
				// A frame of a protocol that nobody knows must pass untouched.
				frame := bytes.Repeat([]byte{0x88}, 64)
				result, err := m.Run(p, frame)
				must(t, err)
				want := winvm.Pass
				if strings.HasPrefix(p.Name(), "lb_too_big") { // whoever comes here is dropped at least
					want = winvm.Drop
				}
				if result.Action != want || !bytes.Equal(result.Frame, frame) {
					t.Errorf("program %s: %s, %x", p.Name(), result.Action, result.Frame)
				}
				t.Logf("%s: %d instructions", p.Name(), result.Instructions)
			}
			for _, mp := range m.Maps() {
				t.Logf("%s: %s, %d elements, keys of %d and values of %d bytes", mp.Name(), mp.Type, mp.MaxEntries, mp.KeySize, mp.ValueSize)
			}
		})
	}
}

// tunnelled is an IP-in-IP frame of the balancer 20.1.1.2 for the backend 20.1.1.10, with
// an inner packet of 20 bytes.
func tunnelled() []byte {
	frame := make([]byte, 14+20+20+6)
	copy(frame, "\x02\x00\x00\x00\x00\x0a\x02\x00\x00\x00\x00\x02\x08\x00")
	outer := frame[14:]
	outer[0], outer[8], outer[9] = 0x45, 64, 4
	binary.BigEndian.PutUint16(outer[2:], 40)
	copy(outer[12:], []byte{20, 1, 1, 2, 20, 1, 1, 10})
	inner := outer[20:]
	inner[0], inner[8], inner[9] = 0x45, 63, 6
	binary.BigEndian.PutUint16(inner[2:], 20)
	copy(inner[12:], []byte{10, 0, 0, 9, 20, 1, 1, 100})
	return frame
}

func TestTheShippedDecapsulationStripsTheOuterHeader(t *testing.T) {
	for _, c := range []struct {
		name    string
		profile winvm.Profile
		want    winvm.Action
	}{{"efW 0.21", winvm.EFW021, winvm.Pass}, {"XDP for Windows, whose adjust_head fails", winvm.XDP, winvm.Drop}} {
		t.Run(c.name, func(t *testing.T) {
			m := shipped(t, "efw-0.21/decap_xdp.o", winvm.Options{Profile: c.profile, CPUs: 2})
			config, err := m.Map("decap_config")
			must(t, err)
			must(t, config.Update(make([]byte, 4), append([]byte{20, 1, 1, 10}, make([]byte, config.ValueSize-4)...), winvm.Any))
			program, err := m.Program("decap_xdp")
			must(t, err)
			must(t, m.SetCPU(1))
			frame := tunnelled()
			result, err := m.Run(program, frame)
			must(t, err)
			if result.Action != c.want {
				t.Fatalf("%s, want %s", result.Action, c.want)
			}
			if c.want == winvm.Drop {
				return
			}
			if want := append(bytes.Clone(frame[:14]), frame[34:]...); !bytes.Equal(result.Frame, want) {
				t.Errorf("got  %x\nwant %x", result.Frame, want)
			}
			stats, err := m.Map("decap_stats")
			must(t, err)
			for cpu, want := range []uint64{0, 1} {
				value, err := stats.LookupCPU(make([]byte, 4), cpu)
				must(t, err)
				if got := binary.LittleEndian.Uint64(value); got != want {
					t.Errorf("processor %d decapsulated %d packets, want %d", cpu, got, want)
				}
			}
			frame[33] = 99 // for another backend
			result, err = m.Run(program, frame)
			must(t, err)
			if result.Action != winvm.Pass || !bytes.Equal(result.Frame, frame) {
				t.Errorf("another's frame: %s, %x", result.Action, result.Frame)
			}
		})
	}
}
