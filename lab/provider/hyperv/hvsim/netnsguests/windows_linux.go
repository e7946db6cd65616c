package netnsguests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/hyperv/hvsim/netnsguests/guestinit"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

const (
	// registryFile keeps what an emulated Windows remembers besides its files.
	registryFile = "registry.json"
	// driveMount and agentMount are where its first process sees drive C and the
	// Linux build of lbagent.
	driveMount = "/c"
	agentMount = "/usr/lib/guestinit/lbagent"
	// adapterName is the one adapter's name.
	adapterName = "Ethernet"
	// dynamicFirst and dynamicCount are a fresh Windows' range of source ports (RFC 6335).
	dynamicFirst, dynamicCount = 49152, 16384
)

// windows is the state of a Windows machine.
type windows struct {
	mu sync.Mutex
	registry
}

// registry is what is on its disk and not a file.
type registry struct {
	Computer string `json:"computer"`
	// Users are the hashes of passwords by name in small letters. It is set by the
	// first boot's answer file.
	Users map[string]string `json:"users"`
	// Address, MTU and WeakHost are the adapter's.
	Address  netip.Prefix `json:"address"`
	MTU      int          `json:"mtu"`
	WeakHost bool         `json:"weakHost"`
	VIPs     []netip.Addr `json:"vips"`
	// DynamicFirst and DynamicCount are its own range of source ports.
	DynamicFirst int `json:"dynamicFirst"`
	DynamicCount int `json:"dynamicCount"`
	// Rules are the firewall's: remembered, not enforced.
	Rules map[string]guestscripts.FirewallEnsureParams `json:"rules"`
	// TestSigning is what the next start will have, TestSigningNow what this one has.
	TestSigning    bool `json:"testSigning"`
	TestSigningNow bool `json:"testSigningNow"`
	// EBPF and XDP are installed versions; XDPNext becomes XDP at the next start.
	EBPF     string                    `json:"ebpf"`
	XDP      string                    `json:"xdp"`
	XDPNext  string                    `json:"xdpNext"`
	Services map[string]windowsService `json:"services"`
}

// windowsService is a service that the lab made.
type windowsService struct {
	Program   string   `json:"program"`
	Arguments []string `json:"arguments"`
	Spec      string   `json:"spec"`
}

// load reads the registry; a new disk has an empty one.
func (m *guest) loadRegistry() (registry, error) {
	var r registry
	text, err := os.ReadFile(filepath.Join(m.disk(), registryFile))
	if err == nil {
		err = json.Unmarshal(text, &r)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if r.DynamicCount == 0 {
		r.DynamicFirst, r.DynamicCount = dynamicFirst, dynamicCount
	}
	if r.Users == nil {
		r.Users = map[string]string{}
	}
	if r.Rules == nil {
		r.Rules = map[string]guestscripts.FirewallEnsureParams{}
	}
	if r.Services == nil {
		r.Services = map[string]windowsService{}
	}
	return r, err
}

// save writes the registry, whole or not at all. The caller holds the lock.
func (m *guest) saveRegistry() error {
	text, err := json.MarshalIndent(m.windows.registry, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(m.disk(), registryFile)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// bootWindows does what Windows does between its kernel's start and the first
// answer to PowerShell Direct: set-up at the first boot, then network and services.
func (m *guest) bootWindows(ctx context.Context) error {
	r, err := m.loadRegistry()
	if err != nil {
		return fmt.Errorf("read its registry: %w", err)
	}
	w := &windows{registry: r}
	w.mu.Lock()
	defer w.mu.Unlock()
	m.mu.Lock()
	m.windows = w
	m.mu.Unlock()
	if len(w.Users) == 0 {
		if err := m.setUp(w); err != nil {
			return err
		}
	}
	w.TestSigningNow = w.TestSigning && !m.machine.SecureBoot
	if w.XDPNext != "" {
		w.XDP, w.XDPNext = w.XDPNext, ""
	}
	if err := m.saveRegistry(); err != nil {
		return err
	}
	if err := m.configureAdapter(w); err != nil {
		m.log.Error("the adapter", "error", err)
	}
	for name := range w.Services {
		if err := m.startService(ctx, w, name); err != nil {
			m.log.Error("a service did not start", "service", name, "error", err)
		}
	}
	return nil
}

// configureAdapter applies what the registry has of the network.
func (m *guest) configureAdapter(w *windows) error {
	return m.inNetwork(func(h *netlink.Handle, lo, eth netlink.Link) error {
		dynamic := fabric.Setting{Path: "ipv4/ip_local_port_range", Value: fmt.Sprintf("%d %d", w.DynamicFirst, w.DynamicFirst+w.DynamicCount-1)}
		if err := m.inNamespace(func(fabric.Namespace) error { return dynamic.Write() }); err != nil {
			return err
		}
		if err := fabric.EnsureVIPs(h, lo, w.VIPs); err != nil {
			return err
		}
		if eth == nil {
			return nil
		}
		if w.MTU != 0 && w.MTU != eth.Attrs().MTU {
			if err := h.LinkSetMTU(eth, w.MTU); err != nil {
				return fmt.Errorf("set the MTU to %d: %w (the most that XDP takes is %d)", w.MTU, err, fabric.MaxMTU)
			}
		}
		var prefixes []netip.Prefix
		if w.Address.IsValid() {
			prefixes = append(prefixes, w.Address)
		}
		if err := fabric.EnsureAddresses(h, eth, prefixes); err != nil {
			return err
		}
		return h.LinkSetUp(eth)
	})
}

func (m *guest) inNamespace(fn func(fabric.Namespace) error) error {
	ns, err := m.guests.open(m.what())
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() error { return fn(ns) })
}

// inNetwork runs fn with the machine's loopback and its adapter, nil where it
// has none.
func (m *guest) inNetwork(fn func(h *netlink.Handle, lo, eth netlink.Link) error) error {
	ns, err := m.guests.open(m.what())
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := ns.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := h.LinkByName(fabric.InterfaceName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		eth, err = nil, nil
	}
	if err != nil {
		return err
	}
	return fn(h, lo, eth)
}

// verb runs one of the guest's verbs on a machine whose registry is locked.
type verb func(ctx context.Context, m *guest, w *windows, input json.RawMessage) (any, error)

// on makes a verb of a typed function; an error without a code gets the
// script's name, as PowerShell Direct would bring it.
func on[P, R any](table map[string]verb, v powershell.Verb[P, R], do func(context.Context, *guest, *windows, P) (R, error)) {
	table[v.Name] = func(ctx context.Context, m *guest, w *windows, input json.RawMessage) (any, error) {
		var p P
		decoder := json.NewDecoder(bytes.NewReader(input))
		decoder.DisallowUnknownFields()
		if len(input) > 0 {
			if err := decoder.Decode(&p); err != nil {
				return nil, &powershell.ScriptError{Script: v.Name, Code: "ParameterBindingFailed", Message: err.Error()}
			}
		}
		r, err := do(ctx, m, w, p)
		var script *powershell.ScriptError
		switch {
		case err == nil:
			return r, nil
		case errors.As(err, &script):
			script.Script = v.Name
			return nil, script
		case ctx.Err() != nil, errors.Is(err, hvsim.ErrGuestNotReady):
			return nil, err
		}
		return nil, &powershell.ScriptError{Script: v.Name, Code: "RuntimeException", Message: err.Error()}
	}
}

// failure is an error with one of the verbs' codes.
func failure(code, target, format string, args ...any) error {
	return &powershell.ScriptError{Code: code, Target: target, Message: fmt.Sprintf(format, args...)}
}

// windowsVerbs are the verbs by the names of their scripts.
func windowsVerbs(v guestscripts.Verbs) map[string]verb {
	t := map[string]verb{}
	on(t, v.Facts, facts)
	on(t, v.AdapterEnsure, adapterEnsure)
	on(t, v.VIPsEnsure, vipsEnsure)
	on(t, v.FirewallEnsure, firewallEnsure)
	on(t, v.PortsEnsure, portsEnsure)
	on(t, v.ClockEnsure, clockEnsure)
	on(t, v.TestSigningEnsure, testSigningEnsure)
	on(t, v.MSIEnsure, msiEnsure)
	on(t, v.XDPEnsure, xdpEnsure)
	on(t, v.ServiceEnsure, serviceEnsure)
	on(t, v.ServiceRemove, serviceRemove)
	on(t, v.IISEnsure, iisEnsure)
	on(t, v.Exec, execProgram)
	on(t, v.FileProbe, fileProbe)
	on(t, v.FileRead, fileRead)
	on(t, v.FileWrite, fileWrite)
	on(t, v.FileRemove, fileRemove)
	on(t, v.SetupClean, setupClean)
	on(t, v.Restart, restart)
	on(t, v.GuestCaptureStart, captureStart)
	on(t, v.GuestCaptureStop, captureStop)
	return t
}

// unlocked are verbs that may take long and change nothing that is remembered.
var unlocked = map[string]bool{"exec": true, "file-read": true, "file-probe": true}

// Invoke implements hvsim.Guests.
func (g *Guests) Invoke(ctx context.Context, id string, as hvsim.Login, contract powershell.Contract, input json.RawMessage) (any, error) {
	m, w, err := g.logOn(id, as)
	if err != nil {
		return nil, err
	}
	do, ok := g.verbs[contract.Name]
	if !ok {
		return nil, &powershell.ScriptError{Script: contract.Name, Code: "CommandNotFoundException", Message: "the simulated guest does not know this verb"}
	}
	if !unlocked[contract.Name] {
		w.mu.Lock()
		defer w.mu.Unlock()
	}
	return do(ctx, m, w, input)
}

// logOn finds a Windows machine that answers and lets a user in.
func (g *Guests) logOn(id string, as hvsim.Login) (*guest, *windows, error) {
	m := g.lookup(id)
	if m == nil {
		return nil, nil, hvsim.ErrGuestNotReady
	}
	m.mu.Lock()
	ready, w, os := m.ready, m.windows, m.machine.OS
	m.mu.Unlock()
	if os != topology.Windows {
		return nil, nil, fmt.Errorf("%w: it does not run Windows", hvsim.ErrGuestNotReady)
	}
	if !ready || w == nil {
		return nil, nil, hvsim.ErrGuestNotReady
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.lets(as) {
		return nil, nil, hvsim.ErrGuestAuth
	}
	return m, w, nil
}

// restart answers, and the machine goes down a moment later: so does Windows.
func restart(ctx context.Context, m *guest, _ *windows, _ guestscripts.None) (guestscripts.None, error) {
	_, err := m.ask(ctx, guestinit.Request{Reboot: true})
	if err == nil {
		m.mu.Lock()
		m.ready = false
		m.mu.Unlock()
	}
	return guestscripts.None{}, err
}
