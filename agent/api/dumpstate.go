package api

import (
	"fmt"
	"strings"
)

// Dumpstate returns connections as the demo's `service dumpstate` shows them: a
// row of titles, then a row each. Tx is "-" where replies never pass.
func Dumpstate(connections []Connection) [][]string {
	rows := [][]string{{"SOURCE IP", "DEST IP", "SOURCE PORT", "DEST PORT", "BACKEND IP", "STATE", "RX BYTES", "TX BYTES"}}
	for _, c := range connections {
		tx := "-"
		if c.TxBytes != nil {
			tx = fmt.Sprint(*c.TxBytes)
		}
		rows = append(rows, []string{
			c.Source.Addr().String(), c.Dest.Addr().String(), fmt.Sprint(c.Source.Port()), fmt.Sprint(c.Dest.Port()),
			c.Backend.Addr().String(), strings.ToUpper(string(c.State)), fmt.Sprint(c.RxBytes), tx,
		})
	}
	return rows
}
