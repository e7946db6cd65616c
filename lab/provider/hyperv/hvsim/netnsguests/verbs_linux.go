package netnsguests

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"l4lab/lab/provider/fabric"
	"l4lab/lab/role/windows/guestscripts"
)

// What an emulated Windows says that it is.
const (
	windowsCaption = "Microsoft Windows Server 2022 (SIMULATED: a Linux network namespace)"
	windowsVersion = "10.0.20348"
)

// windowsMAC writes an address as Windows does: 00-15-5D-01-01-0A.
func windowsMAC(mac string) string { return strings.ToUpper(strings.ReplaceAll(mac, ":", "-")) }

func facts(ctx context.Context, m *guest, w *windows, _ guestscripts.None) (guestscripts.FactsResult, error) {
	m.mu.Lock()
	booted := m.booted
	m.mu.Unlock()
	r := guestscripts.FactsResult{
		Computer: w.Computer, OS: windowsCaption, Version: windowsVersion, BootTime: booted.UTC().Format(time.RFC3339Nano),
		TestSigning: w.TestSigningNow, EBPF: w.EBPF, XDP: w.XDP,
		Adapters: []guestscripts.AdapterFacts{}, VIPs: []string{}, Services: []guestscripts.ServiceFacts{},
		DynamicPortFirst: w.DynamicFirst, DynamicPortCount: w.DynamicCount,
	}
	err := m.inNetwork(func(h *netlink.Handle, lo, eth netlink.Link) error {
		vips, err := fabric.VIPs(h, lo)
		if err != nil {
			return err
		}
		for _, vip := range vips {
			r.VIPs = append(r.VIPs, vip.String())
		}
		if eth == nil {
			return nil
		}
		a, err := adapterFacts(h, eth, w.WeakHost)
		r.Adapters = append(r.Adapters, a)
		return err
	})
	for name, s := range w.Services {
		state := m.serviceState(ctx, name)
		word := map[string]string{"active": "Running", "activating": "Start Pending", "deactivating": "Stop Pending"}[state.Active]
		if word == "" {
			word = "Stopped"
		}
		r.Services = append(r.Services, guestscripts.ServiceFacts{Name: name, State: word, PID: state.PID, Spec: s.Spec, ExitCode: state.ExitCode})
	}
	slices.SortFunc(r.Services, func(a, b guestscripts.ServiceFacts) int { return strings.Compare(a.Name, b.Name) })
	return r, err
}

func adapterFacts(h *netlink.Handle, eth netlink.Link, weakHost bool) (guestscripts.AdapterFacts, error) {
	a := guestscripts.AdapterFacts{
		Name: adapterName, InterfaceIndex: eth.Attrs().Index, MAC: windowsMAC(eth.Attrs().HardwareAddr.String()),
		MTU: eth.Attrs().MTU, Addresses: []string{}, WeakHost: weakHost,
	}
	list, err := h.AddrList(eth, netlink.FAMILY_V4)
	for _, address := range list {
		a.Addresses = append(a.Addresses, address.IPNet.String())
	}
	return a, err
}

// hasAdapter finds the adapter by its address, as the scripts do.
func (m *guest) hasAdapter(mac string) error {
	if m.machine.Switch == "" || !strings.EqualFold(windowsMAC(mac), windowsMAC(m.machine.MAC.String())) {
		return failure(guestscripts.NotFound, mac, "there is no adapter with this MAC address")
	}
	return nil
}

// remembered is the result of a verb that changed the registry.
func (m *guest) remembered(what []string) (guestscripts.Changed, error) {
	if what == nil {
		what = []string{}
	}
	c := guestscripts.Changed{Changed: len(what) > 0, What: what}
	if !c.Changed {
		return c, nil
	}
	return c, m.saveRegistry()
}

func adapterEnsure(_ context.Context, m *guest, w *windows, p guestscripts.AdapterEnsureParams) (guestscripts.Changed, error) {
	if err := m.hasAdapter(p.MAC); err != nil {
		return guestscripts.Changed{}, err
	}
	address, err := netip.ParseAddr(p.Address)
	if err != nil || !address.Is4() || p.PrefixLength < 1 || p.PrefixLength > 32 {
		return guestscripts.Changed{}, fmt.Errorf("%s/%d is no IPv4 address with its prefix", p.Address, p.PrefixLength)
	}
	var what []string
	prefix := netip.PrefixFrom(address, p.PrefixLength)
	before := w.registry
	if w.Address != prefix {
		what = append(what, "address "+prefix.String())
	}
	if mtu := max(w.MTU, defaultMTU); w.MTU != p.MTU && !(w.MTU == 0 && p.MTU == defaultMTU) {
		what = append(what, fmt.Sprintf("mtu %d -> %d", mtu, p.MTU))
	}
	w.Address, w.MTU = prefix, p.MTU
	if err := m.configureAdapter(w); err != nil {
		w.registry = before
		return guestscripts.Changed{}, err
	}
	return m.remembered(what)
}

func vipsEnsure(_ context.Context, m *guest, w *windows, p guestscripts.VIPsEnsureParams) (guestscripts.Changed, error) {
	if err := m.hasAdapter(p.MAC); err != nil {
		return guestscripts.Changed{}, err
	}
	if p.Loopback != "builtin" {
		return guestscripts.Changed{}, failure(guestscripts.NotFound, p.Loopback, "there is no such loopback")
	}
	var want []netip.Addr
	for _, text := range p.Addresses {
		vip, err := netip.ParseAddr(text)
		if err != nil || !vip.Is4() {
			return guestscripts.Changed{}, fmt.Errorf("%q is no IPv4 address", text)
		}
		want = append(want, vip)
	}
	var what []string
	for _, vip := range w.VIPs {
		if !slices.Contains(want, vip) {
			what = append(what, "without "+vip.String())
		}
	}
	for _, vip := range want {
		if !slices.Contains(w.VIPs, vip) {
			what = append(what, "address "+vip.String())
		}
	}
	if !w.WeakHost {
		what = append(what, "weak host")
	}
	w.VIPs, w.WeakHost = want, true
	if err := m.configureAdapter(w); err != nil {
		return guestscripts.Changed{}, err
	}
	return m.remembered(what)
}

func firewallEnsure(_ context.Context, m *guest, w *windows, p guestscripts.FirewallEnsureParams) (guestscripts.Changed, error) {
	old := w.Rules[p.Name]
	if slices.Equal(old.TCP, p.TCP) && slices.Equal(old.UDP, p.UDP) {
		return m.remembered(nil)
	}
	w.Rules[p.Name] = p
	return m.remembered([]string{"rule " + p.Name})
}

// portsEnsure sets one range: Linux has one for both protocols.
func portsEnsure(_ context.Context, m *guest, w *windows, p guestscripts.PortsEnsureParams) (guestscripts.Changed, error) {
	// The limits are netsh's.
	if p.First < 1025 || p.Count < 255 || p.First+p.Count > 65536 {
		return guestscripts.Changed{}, fmt.Errorf("netsh.exe ended with exit code 1: The parameter is incorrect")
	}
	if w.DynamicFirst == p.First && w.DynamicCount == p.Count {
		return m.remembered(nil)
	}
	before := w.registry
	w.DynamicFirst, w.DynamicCount = p.First, p.Count
	if err := m.configureAdapter(w); err != nil {
		w.registry = before
		return guestscripts.Changed{}, err
	}
	last := p.First + p.Count - 1
	return m.remembered([]string{fmt.Sprintf("tcp ports %d to %d", p.First, last), fmt.Sprintf("udp ports %d to %d", p.First, last)})
}

// clockEnsure changes nothing: guests have this machine's clock.
func clockEnsure(_ context.Context, m *guest, _ *windows, _ guestscripts.ClockEnsureParams) (guestscripts.Changed, error) {
	return m.remembered(nil)
}

func testSigningEnsure(_ context.Context, m *guest, w *windows, _ guestscripts.None) (guestscripts.RebootResult, error) {
	if w.TestSigningNow {
		c, err := m.remembered(nil)
		return guestscripts.RebootResult{Changed: c}, err
	}
	if m.machine.SecureBoot {
		return guestscripts.RebootResult{}, fmt.Errorf("bcdedit.exe ended with exit code 1 (is Secure Boot off?): The value is protected by Secure Boot policy and cannot be modified or deleted")
	}
	w.TestSigning = true
	c, err := m.remembered([]string{"test signing on"})
	return guestscripts.RebootResult{Changed: c, Reboot: true}, err
}

var versionInName = regexp.MustCompile(`\d+\.\d+(\.\d+)*`)

// msiEnsure knows two products by their names; what the package really holds
// does not matter here, but that it is the right one does.
func msiEnsure(_ context.Context, m *guest, w *windows, p guestscripts.MSIEnsureParams) (guestscripts.RebootResult, error) {
	var r guestscripts.RebootResult
	if p.Product != "eBPF for Windows" {
		return r, failure(guestscripts.InstallFailed, p.Path, "the simulated guest knows the product \"eBPF for Windows\" alone, not %q", p.Product)
	}
	if w.EBPF != "" {
		c, err := m.remembered(nil)
		return guestscripts.RebootResult{Changed: c}, err
	}
	real, err := m.real(p.Path)
	if err != nil {
		return r, err
	}
	if !isFile(real) {
		return r, failure(guestscripts.NotFound, p.Path, "there is no such package")
	}
	hash, err := hashFile(real)
	if err != nil {
		return r, err
	}
	if !strings.EqualFold(hash, p.SHA256) {
		return r, failure(guestscripts.InstallFailed, p.Path, "the package has another SHA-256")
	}
	w.EBPF = "0.21.1"
	if found := versionInName.FindString(p.Path); found != "" {
		w.EBPF = found
	}
	// Drivers that are test-signed load from the next start on.
	r.Reboot = w.TestSigning && !w.TestSigningNow
	r.Changed, err = m.remembered([]string{"installed " + p.Product})
	return r, err
}

func xdpEnsure(_ context.Context, m *guest, w *windows, p guestscripts.XDPEnsureParams) (guestscripts.RebootResult, error) {
	var r guestscripts.RebootResult
	real, err := m.real(p.Folder + `\xdp-setup.ps1`)
	if err != nil {
		return r, err
	}
	if !isFile(real) {
		return r, failure(guestscripts.NotFound, p.Folder, "there is no xdp-setup.ps1")
	}
	if w.XDP != "" || w.XDPNext != "" {
		r.Changed, err = m.remembered(nil)
		return r, err
	}
	w.XDPNext = "1.1.0"
	r.Reboot = true // XdpEbpfEnabled is read when the driver starts
	r.Changed, err = m.remembered([]string{"installed xdp", "installed xdpebpf"})
	return r, err
}
