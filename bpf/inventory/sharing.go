package inventory

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

// Sharing is how much of the C source both systems compile, counted by
// scripts/sharing, which says what a line is.
type Sharing struct {
	// XDP are the programs at the XDP hook, the balancer and the decapsulation; All
	// has the TC decapsulation besides, which only Linux compiles.
	XDP Lines `json:"xdp"`
	All Lines `json:"all"`
}

// Lines are source lines: those compiled for Linux, and those of them that are
// compiled for Windows too.
type Lines struct {
	Linux int `json:"linux"`
	Both  int `json:"both"`
}

// Share is a percentage.
func (l Lines) Share() float64 { return 100 * float64(l.Both) / float64(l.Linux) }

//go:embed sharing.json
var counted []byte

// Shared returns what was counted when the objects were made.
func Shared() (Sharing, error) {
	var s Sharing
	if err := json.Unmarshal(counted, &s); err != nil {
		return s, fmt.Errorf("read the counted lines: %w", err)
	}
	return s, nil
}
