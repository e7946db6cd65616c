package oracle

import (
	"fmt"
	"strings"
)

// Match compares the frames that were expected with those that were seen, in any
// order, each exactly once. A fault names a frame that did not come as it should with
// all its differences, one that did not come at all, or one that should not have.
func Match(expected, seen []Frame) (faults []string) {
	left := map[string]int{}
	for _, f := range seen {
		left[string(f.Data)]++
	}
	var missing, odd []Frame
	for _, want := range expected {
		if left[string(want.Data)] > 0 {
			left[string(want.Data)]--
		} else {
			missing = append(missing, want)
		}
	}
	for _, f := range seen {
		if left[string(f.Data)] > 0 {
			left[string(f.Data)]--
			odd = append(odd, f)
		}
	}
	for _, want := range missing {
		i := nearest(want, odd)
		if i < 0 {
			faults = append(faults, fmt.Sprintf("%s did not come", want))
			continue
		}
		faults = append(faults, fmt.Sprintf("%s: %s", want, strings.Join(Differences(want, odd[i]), "; ")))
		odd = append(odd[:i], odd[i+1:]...)
	}
	for _, f := range odd {
		faults = append(faults, fmt.Sprintf("%s came, and should not have", f))
	}
	return faults
}

// nearest is the frame with the fewest differences, -1 where there is none.
func nearest(want Frame, odd []Frame) int {
	best, fewest := -1, 0
	for i, f := range odd {
		if n := len(Differences(want, f)); best < 0 || n < fewest {
			best, fewest = i, n
		}
	}
	return best
}

// String names a frame: "TCP 20.1.1.100:40000 > 40.1.1.1:80, 40 bytes, inside of 20.1.1.1 > 20.1.1.10".
func (f Frame) String() string {
	if !f.IsIP() {
		return fmt.Sprintf("a frame of type %s, %d bytes", f.Ether, len(f.Data))
	}
	name := protocolNames[f.Protocol]
	if name == "" {
		name = fmt.Sprintf("protocol %d", f.Protocol)
	}
	text := fmt.Sprintf("%s %s > %s, %d bytes", name, f.Source(), f.Dest(), f.Length())
	if f.Inner().Fragment() {
		text += fmt.Sprintf(" from byte %d of a fragmented packet", f.Inner().offset)
	}
	if f.Tunnelled() {
		text += fmt.Sprintf(", inside of %s > %s", f.IPs[0].Source, f.IPs[0].Dest)
	}
	return text
}
