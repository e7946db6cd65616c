package datapath

import "strings"

// isFull: cilium/ebpf answers efW's EBPF_OUT_OF_SPACE with an errno of a type of its
// own, which only its text tells apart. Not seen on a Windows host yet.
func isFull(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "ENOSPC") || strings.Contains(err.Error(), "E2BIG"))
}
