package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// sameLayout compares the members of a pinned map's key and value with those
// that the program has: sizes alone would let two members change places
// unnoticed. A map without BTF passes, and one whose BTF we may not read (that
// takes CAP_SYS_ADMIN): there is nothing to compare.
func sameLayout(m *ebpf.Map, spec *ebpf.MapSpec) error {
	handle, err := m.Handle()
	if errors.Is(err, btf.ErrNotFound) || errors.Is(err, ebpf.ErrNotSupported) || isPermission(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read its BTF: %w", err)
	}
	defer handle.Close()
	types, err := handle.Spec(nil)
	if err != nil {
		return fmt.Errorf("read its BTF: %w", err)
	}
	for _, want := range []btf.Type{spec.Key, spec.Value} {
		s, ok := want.(*btf.Struct)
		if !ok {
			continue
		}
		var pinned *btf.Struct
		if err := types.TypeByName(s.Name, &pinned); err != nil {
			return fmt.Errorf("struct %s: %w", s.Name, err)
		}
		if err := sameMembers(pinned, s); err != nil {
			return err
		}
	}
	return nil
}

func sameMembers(pinned, want *btf.Struct) error {
	if pinned.Size != want.Size || len(pinned.Members) != len(want.Members) {
		return fmt.Errorf("struct %s has %d members in %d bytes, wanted are %d in %d",
			want.Name, len(pinned.Members), pinned.Size, len(want.Members), want.Size)
	}
	for i, w := range want.Members {
		if p := pinned.Members[i]; p.Name != w.Name || p.Offset != w.Offset {
			return fmt.Errorf("struct %s: member %d is %s at byte %d, wanted is %s at byte %d",
				want.Name, i, p.Name, p.Offset.Bytes(), w.Name, w.Offset.Bytes())
		}
	}
	return nil
}
