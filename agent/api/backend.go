package api

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Share is the weight that counts: 1 where none is given.
func (b Backend) Share() uint16 {
	if b.Weight == nil {
		return 1
	}
	return *b.Weight
}

// String is what ParseBackend reads, and how the backend is when it is not in use.
func (b Backend) String() string {
	text := b.Address.String()
	if b.Weight != nil {
		text += fmt.Sprintf("@%d", *b.Weight)
	}
	if b.State != "" && b.State != "active" {
		text += "(" + b.State + ")"
	} else if b.Health == "quarantined" {
		text += "(" + b.Health + ")"
	}
	return text
}

// ParseBackend reads ADDRESS:PORT, or ADDRESS:PORT@WEIGHT.
func ParseBackend(text string) (Backend, error) {
	address, weight, weighted := strings.Cut(strings.TrimSpace(text), "@")
	var b Backend
	var err error
	if b.Address, err = netip.ParseAddrPort(address); err != nil {
		return b, fmt.Errorf("%q is no ADDRESS:PORT[@WEIGHT]: %w", text, err)
	}
	if !weighted {
		return b, nil
	}
	n, err := strconv.ParseUint(weight, 10, 16)
	if err != nil || n > MaxWeight {
		return b, fmt.Errorf("%q is no ADDRESS:PORT[@WEIGHT]: a weight is 0 to %d", text, MaxWeight)
	}
	b.Weight = new(uint16)
	*b.Weight = uint16(n)
	return b, nil
}
