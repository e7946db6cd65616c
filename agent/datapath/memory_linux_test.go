package datapath

import (
	"testing"

	"github.com/cilium/ebpf"

	"l4lab/agent/testnet"
	"l4lab/bpf"
)

// memory is what the kernel charges for the maps that a program of these sizes has.
func memory(t *testing.T, sizes Sizes) (bytes uint64) {
	t.Helper()
	testnet.NeedRoot(t)
	spec, err := bpf.LoadLB()
	check(t, err)
	for _, name := range mapNames {
		m := spec.Maps[name]
		if size := sizes.wanted(name); size != 0 {
			m.MaxEntries = size
		}
		made, err := ebpf.NewMap(m)
		check(t, err)
		info, err := made.Info()
		check(t, err)
		// A trie, which takes memory for what is in it, has none to name.
		charged, ok := info.Memlock()
		if !ok && m.Type != ebpf.LPMTrie {
			t.Fatalf("the kernel does not say what the map %s takes", name)
		}
		bytes += charged
		check(t, made.Close())
	}
	return bytes
}

func TestTheDefaultMapsFitIn64MiB(t *testing.T) {
	const limit = 64 << 20
	if got := memory(t, Sizes{}); got > limit {
		t.Errorf("the maps take %.1f MiB, more than 64", float64(got)/(1<<20))
	} else {
		t.Logf("the maps take %.1f MiB", float64(got)/(1<<20))
	}
}

func TestHalfAMillionConnectionsAreOneSizeAway(t *testing.T) {
	const limit = 256 << 20
	got := memory(t, Sizes{Connections: 524288})
	if got > limit || got < 64<<20 {
		t.Errorf("the maps of 524,288 connections take %.1f MiB, wanted is 64 to 256", float64(got)/(1<<20))
	}
	t.Logf("the maps take %.1f MiB", float64(got)/(1<<20))
}
