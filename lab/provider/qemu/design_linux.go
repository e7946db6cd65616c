package qemu

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"

	"l4lab/lab/guest/keys"
	"l4lab/lab/guest/seed"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/qemu/image"
	"l4lab/topology"
)

// design is what a node's machine is made from. It is comparable by its hash.
type design struct {
	image image.Image
	block topology.QEMU
	// memoryMB and cpus are the machine's.
	memoryMB, cpus int
	// seed is the content of a Linux guest's disc.
	seed []byte
	// windows is what is to be told to a real Windows guest; nil for a Linux one.
	windows *windowsIdentity
}

// isWindows says whether a node is a real Windows guest: the topology names an image.
func isWindows(t topology.Topology, name string) bool {
	return t.Nodes[name].OS == topology.Windows && topology.FilledQEMU(t.Providers.QEMU).Images.Windows != ""
}

// imageName is the name of the image that a node's disk lies on.
func imageName(t topology.Topology, name string) string {
	images := topology.FilledQEMU(t.Providers.QEMU).Images
	if isWindows(t, name) {
		return images.Windows
	}
	return images.Linux
}

// fitsNodes says why an image is none for nodes of a system.
func fitsNodes(img image.Image, os topology.OS) error {
	if has := cmp.Or(img.OS, topology.Linux); has != os {
		return fmt.Errorf("image %s has %s on it, by what was said when it was imported, and %s is wanted: name another one as providers.qemu.images.%s, or `labctl image import FILE --name NAME --os %s`", img.Name, has, os, os, os)
	}
	return nil
}

// designOf returns what a node is to be made from; the image must be there.
func designOf(lab provider.Lab, name string, img image.Image) (design, error) {
	t := lab.Topology
	block := topology.FilledQEMU(t.Providers.QEMU)
	if isWindows(t, name) {
		return designOfWindows(lab, name, img, block)
	}
	d := design{image: img, block: block, memoryMB: block.MemoryMB, cpus: block.CPUs}
	if err := fitsNodes(img, topology.Linux); err != nil {
		return d, err
	}
	login, own, err := keysOf(lab, name)
	if err != nil {
		return d, err
	}
	address := t.Nodes[name].Address
	var disc bytes.Buffer
	err = seed.Write(&disc, seed.Seed{
		Hostname: name, User: seed.Root, Login: login, HostKey: own, MAC: fabric.MACOf(address),
		Address: netip.PrefixFrom(address, t.Switch.Subnet.Bits()), MTU: t.Switch.MTU,
	})
	d.seed = disc.Bytes()
	return d, err
}

// windowsIdentity is what of a Windows guest is its own. The disc that tells it holds
// secrets that differ from one writing to the next, so that it is no part of a hash.
type windowsIdentity struct {
	Name    string       `json:"name"`
	Address netip.Prefix `json:"address"`
	MTU     int          `json:"mtu"`
	// Machine is the topology's block: its card, and what it loads programs with.
	Machine topology.QEMUWindows `json:"machine"`
	// Certificate is its WinRM server's fingerprint.
	Certificate string `json:"certificate"`
}

func designOfWindows(lab provider.Lab, name string, img image.Image, block topology.QEMU) (design, error) {
	t := lab.Topology
	d := design{image: img, block: block, memoryMB: block.Windows.MemoryMB, cpus: block.Windows.CPUs}
	if err := fitsNodes(img, topology.Windows); err != nil {
		return d, err
	}
	server, err := keys.Server(lab.Dir, name)
	if err != nil {
		return d, err
	}
	d.windows = &windowsIdentity{
		Name: name, Address: netip.PrefixFrom(t.Nodes[name].Address, t.Switch.Subnet.Bits()), MTU: t.Switch.MTU,
		Machine: block.Windows, Certificate: server.Fingerprint(),
	}
	return d, nil
}

// hash names a design. The acceleration is not part of it: a machine that runs
// goes on as it was started.
func (d design) hash() string {
	h := sha256.New()
	fmt.Fprintf(h, "image %s %s\nmemory %d\nprocessors %d\nseed %x\n", d.image.Name, d.image.SHA256, d.memoryMB, d.cpus, sha256.Sum256(d.seed))
	if d.windows != nil {
		text, _ := json.Marshal(d.windows) // plain values, which marshal
		fmt.Fprintf(h, "windows %s\n", text)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
