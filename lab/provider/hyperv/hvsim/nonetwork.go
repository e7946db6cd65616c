package hvsim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"l4lab/lab/powershell"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/lab/state"
	"l4lab/topology"
)

// noNetwork are guests that carry no packets and need no root: machines
// whose heartbeat comes after bootTime, whose disk is a folder, and whose
// Windows answers PowerShell Direct with its facts, its files, test signing, its
// source ports and a restart. Every other guest's verb is error "notSimulated". Windows machines
// with an answer file let in who knows a password in it; others let in everybody.
//
// The host's own network is this machine's loopback: HostDial reaches nothing
// else, HostExec runs its program in it. Captures are empty.
type noNetwork struct {
	bootTime time.Duration
	// disk returns the folder that stands for a machine's disk, whether the
	// machine was ever on or not.
	disk func(id string) string

	mu       sync.Mutex
	machines map[string]*noNetworkMachine
}

func newNoNetwork(bootTime time.Duration, disk func(id string) string) *noNetwork {
	return &noNetwork{bootTime: bootTime, disk: disk, machines: map[string]*noNetworkMachine{}}
}

// noNetworkMachine is one machine, on or off.
type noNetworkMachine struct {
	Machine
	on     bool
	booted time.Time
}

// ready says whether the guest has come up.
func (m *noNetworkMachine) ready() bool { return m.on && !time.Now().Before(m.booted) }

func (g *noNetwork) EnsureSwitch(_ context.Context, name string) (net.HardwareAddr, error) {
	sum := sha256.Sum256([]byte(name))
	return net.HardwareAddr{0x00, 0x15, 0x5d, sum[0], sum[1], sum[2]}, nil
}

func (g *noNetwork) RemoveSwitch(context.Context, string) error { return nil }

func (g *noNetwork) SetHost(_ context.Context, n HostNetwork) error {
	for _, via := range n.Routes {
		if !hasNeighbour(n.Addresses, via) {
			return fmt.Errorf("no address of the adapter reaches %s", via)
		}
	}
	return nil
}

func hasNeighbour(addresses []netip.Prefix, via netip.Addr) bool {
	for _, a := range addresses {
		if a.Contains(via) {
			return true
		}
	}
	return false
}

func (g *noNetwork) Start(_ context.Context, m Machine) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.machines[m.ID]
	if old != nil && old.on {
		return errors.New("it is on already")
	}
	next := &noNetworkMachine{Machine: m, on: true, booted: time.Now().Add(g.bootTime)}
	g.machines[m.ID] = next
	return nil
}

func (g *noNetwork) Stop(_ context.Context, id string, orderly bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.machines[id]
	if m == nil || !m.on {
		return nil
	}
	if orderly && !m.ready() {
		return errors.New("the guest does not answer the shutdown integration service")
	}
	m.on = false
	return nil
}

func (g *noNetwork) Remove(_ context.Context, id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.machines, id)
	return nil
}

func (g *noNetwork) State(id string) GuestState {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.machines[id]
	switch {
	case m == nil || !m.on:
		return GuestState{}
	case !m.ready():
		return GuestState{Running: true, Heartbeat: heartbeatNone}
	}
	return GuestState{Running: true, Heartbeat: heartbeatOK}
}

// saved is where a checkpoint's copy of a machine's disk lies.
func (g *noNetwork) saved(id, checkpoint string) string {
	return filepath.Join(filepath.Dir(g.disk(id)), "checkpoints", checkpoint)
}

func (g *noNetwork) Save(_ context.Context, id, checkpoint string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	to := g.saved(id, checkpoint)
	return errors.Join(os.RemoveAll(to), copyTree(g.disk(id), to))
}

func (g *noNetwork) Restore(_ context.Context, id, checkpoint string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.machines[id]; m != nil && m.on {
		return errors.New("the machine is on")
	}
	if err := os.RemoveAll(g.disk(id)); err != nil {
		return err
	}
	return copyTree(g.saved(id, checkpoint), g.disk(id))
}

// copyTree copies a folder that may not be there yet: a machine that was never on.
func copyTree(from, to string) error {
	if err := errors.Join(os.MkdirAll(from, 0o700), os.MkdirAll(filepath.Dir(to), 0o700)); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(from))
}

// windows returns a machine that PowerShell Direct reaches with this login.
func (g *noNetwork) windows(id string, as Login) (*noNetworkMachine, error) {
	m := g.machines[id]
	switch {
	case m == nil, !m.ready(), m.OS != topology.Windows:
		return nil, ErrGuestNotReady
	case !knows(m.Unattend, as.Password):
		return nil, ErrGuestAuth
	}
	return m, nil
}

// knows says whether an answer file holds a password: as it is, escaped for
// XML, or as Windows encodes it (base64 of UTF-16LE of the password and the
// name of its element).
func knows(unattend []byte, password string) bool {
	if unattend == nil {
		return true
	}
	if password == "" {
		return false
	}
	var escaped bytes.Buffer
	if err := xml.EscapeText(&escaped, []byte(password)); err != nil {
		return false
	}
	// Windows appends the name of the element before it encodes.
	for _, text := range []string{password, escaped.String(), encodedPassword(password + "AdministratorPassword"), encodedPassword(password + "Password")} {
		if bytes.Contains(unattend, []byte(text)) {
			return true
		}
	}
	return false
}

func encodedPassword(text string) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = append(b, byte(unit), byte(unit>>8))
	}
	return base64.StdEncoding.EncodeToString(b)
}

func (g *noNetwork) Invoke(_ context.Context, id string, as Login, verb powershell.Contract, input json.RawMessage) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, err := g.windows(id, as)
	if err != nil {
		return nil, err
	}
	verbs := guestscripts.New()
	switch verb.Name {
	case verbs.Facts.Name:
		return m.facts(), nil
	case verbs.TestSigningEnsure.Name:
		return m.ensureTestSigning()
	case verbs.PortsEnsure.Name:
		return m.ensurePorts(input)
	case verbs.Restart.Name:
		m.booted = time.Now().Add(g.bootTime)
		return guestscripts.None{}, nil
	case verbs.FileProbe.Name, verbs.FileRead.Name, verbs.FileWrite.Name, verbs.FileRemove.Name:
		return m.file(verb.Name, verbs, input)
	}
	return nil, &powershell.ScriptError{Script: verb.Name, Code: "notSimulated", Message: "these guests have no network, and do not do this"}
}

func (m *noNetworkMachine) facts() guestscripts.FactsResult {
	ports := m.ports()
	return guestscripts.FactsResult{
		Computer: m.Name, OS: "Microsoft Windows Server 2022 Datacenter (simulated)", Version: "10.0.20348",
		BootTime: m.booted.UTC().Format(time.RFC3339Nano), TestSigning: m.signsTests() && !m.SecureBoot,
		Adapters:         []guestscripts.AdapterFacts{{Name: "Ethernet", InterfaceIndex: 4, MAC: windowsMAC(m.MAC), MTU: 1500}},
		DynamicPortFirst: ports.First, DynamicPortCount: ports.Count,
	}
}

// testSigningFile is there when bcdedit has been told; the running system has
// it after the next restart, which this simulation does not wait for.
const testSigningFile = "testsigning"

func (m *noNetworkMachine) signsTests() bool {
	_, err := os.Stat(filepath.Join(m.Dir, testSigningFile))
	return err == nil
}

func (m *noNetworkMachine) ensureTestSigning() (guestscripts.RebootResult, error) {
	if m.signsTests() {
		return guestscripts.RebootResult{}, nil
	}
	r := guestscripts.RebootResult{Changed: guestscripts.Changed{Changed: true, What: []string{"test signing"}}, Reboot: true}
	return r, os.WriteFile(filepath.Join(m.Dir, testSigningFile), nil, 0o600)
}

// portsFile holds the machine's range of source ports, once it was set.
const portsFile = "ports.json"

func (m *noNetworkMachine) ports() guestscripts.PortsEnsureParams {
	p := guestscripts.PortsEnsureParams{First: 49152, Count: 16384} // Windows' default
	if text, err := os.ReadFile(filepath.Join(m.Dir, portsFile)); err == nil {
		_ = json.Unmarshal(text, &p) // written by ensurePorts alone
	}
	return p
}

func (m *noNetworkMachine) ensurePorts(input json.RawMessage) (guestscripts.Changed, error) {
	var p guestscripts.PortsEnsureParams
	if err := json.Unmarshal(input, &p); err != nil || m.ports() == p {
		return guestscripts.Changed{}, err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return guestscripts.Changed{}, err
	}
	return guestscripts.Changed{Changed: true, What: []string{"tcp ports", "udp ports"}}, state.WriteFile(filepath.Join(m.Dir, portsFile), text, 0o600)
}

// file answers the verbs of files on the machine's disk.
func (m *noNetworkMachine) file(name string, verbs guestscripts.Verbs, input json.RawMessage) (any, error) {
	var p struct {
		Path, Data    string
		Offset, Bytes int64
	}
	if err := json.Unmarshal(input, &p); err != nil {
		return nil, err
	}
	real, err := m.path(p.Path)
	if err != nil {
		return nil, err
	}
	switch name {
	case verbs.FileProbe.Name:
		size, hash, exists, err := probe(real)
		return guestscripts.FileProbeResult{Exists: exists, Bytes: size, SHA256: hash}, err
	case verbs.FileRead.Name:
		content, err := os.ReadFile(real)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &powershell.ScriptError{Script: name, Code: guestscripts.NotFound, Message: "there is no file " + p.Path, Target: p.Path}
		}
		size := int64(len(content))
		from := min(max(p.Offset, 0), size)
		piece := content[from:min(from+max(p.Bytes, 0), size)]
		return guestscripts.FileReadResult{Data: base64.StdEncoding.EncodeToString(piece), Bytes: size}, err
	case verbs.FileWrite.Name:
		return m.write(real, p.Data)
	}
	err = os.RemoveAll(real)
	return guestscripts.Changed{Changed: true, What: []string{"file"}}, err
}

func (m *noNetworkMachine) write(real, data string) (guestscripts.Changed, error) {
	content, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return guestscripts.Changed{}, fail("FormatException", "", "The input is not a valid Base-64 string.")
	}
	if had, err := os.ReadFile(real); err == nil && bytes.Equal(had, content) {
		return guestscripts.Changed{}, nil
	}
	if err := os.MkdirAll(filepath.Dir(real), 0o700); err != nil {
		return guestscripts.Changed{}, err
	}
	return guestscripts.Changed{Changed: true, What: []string{"file"}}, state.WriteFile(real, content, 0o600)
}

// path maps a path of the guest's to its disk, as the host's are mapped.
func (m *noNetworkMachine) path(path string) (string, error) {
	if err := os.MkdirAll(filepath.Join(m.Dir, "c"), 0o700); err != nil {
		return "", err
	}
	return drives{m.Dir}.real(path)
}

func (g *noNetwork) CopyIn(_ context.Context, id string, as Login, from, to string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, err := g.windows(id, as)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	real, err := m.path(to)
	if err != nil {
		return err
	}
	_, err = m.write(real, base64.StdEncoding.EncodeToString(content))
	return err
}

func (g *noNetwork) CopyOut(_ context.Context, id string, as Login, from, to string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, err := g.windows(id, as)
	if err != nil {
		return err
	}
	real, err := m.path(from)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(real)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(guestscripts.NotFound, from, "there is no file %s", from)
	}
	if err != nil {
		return err
	}
	return state.WriteFile(to, content, 0o644)
}

func (g *noNetwork) HostExec(ctx context.Context, program string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	cmd := exec.CommandContext(ctx, program, argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	// A standard input that nobody ends must not keep a program that ended.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	case errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case err != nil:
		return 0, fail("ApplicationFailedException", program, "the program cannot be run: %v", err)
	}
	return 0, nil
}

func (g *noNetwork) HostDial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !to.Addr().IsLoopback() {
		return nil, fmt.Errorf("dial %s: this host has no network", address)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// Capture records nothing, in files that say so: a pcapng section without packets.
func (g *noNetwork) Capture(_ context.Context, ids []string) (func(func(string) string) (map[string]int64, error), error) {
	return func(path func(string) string) (map[string]int64, error) {
		dropped := map[string]int64{}
		for _, id := range ids {
			dropped[id] = 0
			if err := writeEmptyPcapng(path(id)); err != nil {
				return nil, err
			}
		}
		return dropped, nil
	}, nil
}

func (g *noNetwork) Close(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.machines)
	return nil
}

func writeEmptyPcapng(path string) error {
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
	if err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// windowsMAC writes an address as Windows does.
func windowsMAC(mac net.HardwareAddr) string {
	return strings.ToUpper(strings.ReplaceAll(mac.String(), ":", "-"))
}
