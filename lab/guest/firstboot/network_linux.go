package firstboot

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"l4lab/lab/guest/seed"
	"l4lab/lab/guest/seed/apply"
)

// Where systemd-networkd reads what its interfaces are to be. The unit comes
// before networkd, so that nobody has to tell it.
const (
	networkFolder = "/etc/systemd/network"
	networkPrefix = "10-l4lab-"
	networkSuffix = ".network"
)

// networkFiles returns the files of systemd.network(5) for a network-config.
func networkFiles(c seed.NetworkConfig) ([]apply.File, error) {
	if c.Version != 2 {
		return nil, fmt.Errorf("network-config has version %d, not 2", c.Version)
	}
	var files []apply.File
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.Ethernets)) {
		text, err := networkText(c.Ethernets[name])
		if name == "" || strings.ContainsAny(name, "/.\n") {
			err = errors.Join(err, errors.New("this is no interface's name"))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("network-config: %q: %w", name, err))
		}
		path := filepath.Join(networkFolder, networkPrefix+name+networkSuffix)
		files = append(files, apply.File{Path: path, Data: []byte(text), Mode: 0o644})
	}
	if len(files) == 0 {
		errs = append(errs, errors.New("network-config has no interface"))
	}
	return files, errors.Join(errs...)
}

// networkText matches by MAC alone: what the kernel or udev names the interface
// does not matter.
func networkText(e seed.Ethernet) (string, error) {
	mac, err := net.ParseMAC(e.Match.MAC)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# Written at the first boot, from the seed.\n[Match]\nMACAddress=%s\nType=ether\n\n[Link]\n", mac)
	if e.MTU != 0 {
		fmt.Fprintf(&text, "MTUBytes=%d\n", e.MTU)
	}
	dhcp := map[[2]bool]string{{false, false}: "no", {true, false}: "ipv4", {false, true}: "ipv6", {true, true}: "yes"}[[2]bool{e.DHCP4, e.DHCP6}]
	accept := map[bool]string{false: "no", true: "yes"}[e.AcceptRA]
	fmt.Fprintf(&text, "\n[Network]\nDHCP=%s\nIPv6AcceptRA=%s\n", dhcp, accept)
	for _, a := range e.Addresses {
		prefix, err := netip.ParsePrefix(a)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&text, "Address=%s\n", prefix)
	}
	return text.String(), nil
}

// writeNetwork writes the files, and removes those of an earlier seed.
func (b Boot) writeNetwork(files []apply.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, b.Machine.WriteFile(f))
	}
	there, err := filepath.Glob(filepath.Join(b.Machine.Root, networkFolder, networkPrefix+"*"+networkSuffix))
	if err != nil {
		return err
	}
	for _, path := range there {
		wanted := slices.ContainsFunc(files, func(f apply.File) bool { return filepath.Base(f.Path) == filepath.Base(path) })
		if wanted {
			continue
		}
		if err := os.Remove(path); err != nil {
			errs = append(errs, fmt.Errorf("remove an earlier seed's network: %w", err))
			continue
		}
		b.Log.Info("removed " + filepath.Join(networkFolder, filepath.Base(path)))
	}
	return errors.Join(errs...)
}
