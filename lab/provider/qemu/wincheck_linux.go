package qemu

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"l4lab/lab/provider"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/topology"
)

// windowsFound says what there is and what is missing for the Windows nodes of a lab.
func (p *Provider) windowsFound(t topology.Topology) []provider.Requirement {
	block := topology.FilledQEMU(t.Providers.QEMU)
	name := block.Images.Windows
	if name == "" {
		return []provider.Requirement{{
			Name: "Windows guests", OK: true, Fatal: true, ForUp: true, Found: "Linux machines stand in for them, with XDP decapsulation",
		}}
	}
	if !hasWindows(t) {
		return nil
	}
	var list []provider.Requirement
	add := func(name, found, remedy string, err error) {
		r := provider.Requirement{Name: name, OK: err == nil, Fatal: true, ForUp: true, Found: found}
		if err != nil {
			r.Found, r.Remedy = err.Error(), remedy
		}
		list = append(list, r)
	}
	img, err := p.o.Images.Get(name)
	if err == nil {
		err = fitsNodes(img, topology.Windows)
	}
	add("image "+name, img.Disk,
		fmt.Sprintf("labctl image import FILE --name %s --os windows (with --firmware uefi where its disk wants that), or leave providers.qemu.images.windows out: Linux machines stand in for Windows ones", name), err)
	if err == nil && img.Firmware == image.UEFI {
		code, err := vm.FindUEFI()
		add("UEFI firmware", code, "apt-get install ovmf", err)
	}
	e := block.Windows.EBPF
	files := map[string]string{"ebpf.msi": e.MSI, "ebpf.xdp": e.XDP}
	for i, path := range e.Programs {
		files[fmt.Sprintf("ebpf.programs[%d]", i)] = path
	}
	for _, field := range slices.Sorted(maps.Keys(files)) {
		if path := files[field]; path != "" {
			_, err := os.Stat(path)
			add("windows."+field, path, "correct providers.qemu.windows."+field, err)
		}
	}
	return list
}
