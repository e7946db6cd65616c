package datapath

import "github.com/cilium/ebpf"

// window does nothing: maps that are memory of the agent's too are Linux's.
type window struct{}

func (*window) write(*ebpf.Map, []uint32) (done bool, err error) { return false, nil }
func (*window) close() error                                     { return nil }
