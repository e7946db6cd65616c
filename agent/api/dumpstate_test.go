package api_test

import (
	"net/netip"
	"slices"
	"testing"

	"l4lab/agent/api"
)

func TestDumpstateShowsTxOnlyWhereRepliesPass(t *testing.T) {
	replied := uint64(443)
	c := api.Connection{
		Source: netip.MustParseAddrPort("20.1.1.100:50000"), Dest: netip.MustParseAddrPort("40.1.1.1:80"),
		Backend: netip.MustParseAddrPort("20.1.1.30:80"), State: api.Closing, RxBytes: 398,
	}
	snat := c
	snat.TxBytes = &replied
	rows := api.Dumpstate([]api.Connection{c, snat})
	want := [][]string{
		{"SOURCE IP", "DEST IP", "SOURCE PORT", "DEST PORT", "BACKEND IP", "STATE", "RX BYTES", "TX BYTES"},
		{"20.1.1.100", "40.1.1.1", "50000", "80", "20.1.1.30", "CLOSING", "398", "-"},
		{"20.1.1.100", "40.1.1.1", "50000", "80", "20.1.1.30", "CLOSING", "398", "443"},
	}
	if !slices.EqualFunc(rows, want, slices.Equal[[]string]) {
		t.Errorf("got %q, want %q", rows, want)
	}
}
