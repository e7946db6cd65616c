package winvm

import (
	"bytes"
	"testing"

	"github.com/cilium/ebpf/asm"
)

// adjusted moves the head and returns what the helper returned, after writing a byte to the
// new start.
func adjusted(delta int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1), asm.Mov.Imm(asm.R2, delta), callID(helperAdjustHead),
		asm.LoadMem(asm.R2, asm.R6, contextData, asm.DWord), storeImmediate(asm.R2, 0, 0x77, asm.Byte),
		asm.Return(),
	}
}

func TestAdjustHeadMovesTheFramesStart(t *testing.T) {
	frame := frame60()
	changed := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[0] = 0x77
		return b
	}
	for _, c := range []struct {
		name     string
		profile  Profile
		headroom int
		delta    int32
		want     Action
		frame    []byte
	}{
		{"forwards", EFW021, 0, 20, 0, changed(frame[20:])},
		{"nowhere", EFW021, 0, 0, 0, changed(frame)},
		{"to the last byte", EFW021, 0, 59, 0, changed(frame[59:])},
		{"backwards to new memory", EFW021, 0, -20, 0, changed(append(make([]byte, 20), frame...))},
		{"backwards with some room", EFW021, 19, -20, 0, changed(append(make([]byte, 20), frame...))},
		{"backwards within the room", EFW021, 20, -20, 0, changed(append(bytes.Repeat([]byte{staleByte}, 20), frame...))},
		{"backwards beyond all memory", EFW021, 0, -maxFrame, 0xffffffff, changed(frame)},
		{"backwards by the least integer", EFW021, 0, -1 << 31, 0xffffffff, changed(frame)},
		{"forwards with XDP for Windows", XDP, 0, 20, 0xffffffff, changed(frame)},
		{"backwards with XDP for Windows", XDP, 100, -20, 0xffffffff, changed(frame)},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := fixed()
			options.Profile, options.Headroom = c.profile, c.headroom
			m := build(t, options, nil, source{"program", adjusted(c.delta)})
			for range 2 { // the second run must find the machine as the first did
				result := run(t, m)
				if result.Action != c.want || !bytes.Equal(result.Frame, c.frame) {
					t.Fatalf("%d\ngot  %x\nwant %x", int32(result.Action), result.Frame, c.frame)
				}
			}
			if !bytes.Equal(frame, frame60()) {
				t.Error("the caller's frame changed")
			}
		})
	}
}

func TestAdjustHeadBackAndForthKeepsTheFrame(t *testing.T) {
	var code asm.Instructions
	code = append(code, asm.Mov.Reg(asm.R6, asm.R1))
	for _, delta := range []int32{-20, 20, -8, -100, 108} {
		code = append(code, asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, delta), callID(helperAdjustHead))
	}
	m := build(t, fixed(), nil, source{"program", returning(code...)})
	if got := run(t, m).Frame; !bytes.Equal(got, frame60()) {
		t.Errorf("%x", got)
	}
}

func TestPacketPointersAreVoidHoweverOftenTheHeadMoves(t *testing.T) {
	code := join(packetPointers(), asm.Mov.Reg(asm.R7, asm.R2), asm.Mov.Imm(asm.R8, packetRegions-1),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, -1), callID(helperAdjustHead),
		asm.Sub.Imm(asm.R8, 1), skip(asm.JNE.Imm(asm.R8, 0, ""), -5),
		asm.LoadMem(asm.R0, asm.R7, 0, asm.Byte), asm.Return())
	m := build(t, fixed(), nil, source{"program", code})
	faults(t, m, StalePacket)
	faults(t, m, StalePacket)
}

// With XDP for Windows the helper's prototype does not say reallocate_packet, so that PREVAIL
// keeps the pointers.
func TestPacketPointersOutliveTheStub(t *testing.T) {
	options := fixed()
	options.Profile = XDP
	m := build(t, options, nil, source{"program", join(packetPointers(), asm.Mov.Reg(asm.R7, asm.R2),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 4), callID(helperAdjustHead), asm.LoadMem(asm.R0, asm.R7, 9, asm.Byte), asm.Return())})
	if got := run(t, m).Action; got != 9 {
		t.Errorf("%d", got)
	}
}

func TestTheContextIsWindows(t *testing.T) {
	options := fixed()
	options.IfIndex = 17
	for name, c := range map[string]struct {
		code asm.Instructions
		want Action
	}{
		"the length, between two pointers of 64 bits": {join(packetPointers(), asm.Mov.Reg(asm.R0, asm.R3), asm.Sub.Reg(asm.R0, asm.R2)), 60},
		"ingress_ifindex at 24":                       {join(asm.LoadMem(asm.R0, asm.R1, 24, asm.Word)), 17},
		"data_meta is 0":                              {join(asm.LoadMem(asm.R0, asm.R1, 16, asm.DWord)), 0},
	} {
		if got := run(t, build(t, options, nil, source{"program", returning(c.code...)})).Action; got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestAnUnknownActionDropsTheFrame(t *testing.T) {
	for action, want := range map[Action]Action{Pass: Pass, Drop: Drop, TX: TX, 0: Drop, 4: Drop, 0xffffffff: Drop} {
		if got := action.Verdict(); got != want {
			t.Errorf("%d: %s, want %s", uint32(action), got, want)
		}
	}
}

func TestFramesThatNoNetworkHasAreRefused(t *testing.T) {
	m := build(t, fixed(), nil, source{"program", returning(asm.Mov.Imm(asm.R0, 1))})
	for _, size := range []int{0, maxFrame + 1} {
		if _, err := m.Run(m.programs[0], make([]byte, size)); err == nil {
			t.Errorf("%d bytes: no error", size)
		}
	}
	other := build(t, fixed(), nil, source{"program", returning(asm.Mov.Imm(asm.R0, 1))})
	if _, err := m.Run(other.programs[0], frame60()); err == nil {
		t.Error("another machine's program: no error")
	}
}
