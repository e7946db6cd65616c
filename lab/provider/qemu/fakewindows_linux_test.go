package qemu

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/guest/keys"
	"l4lab/lab/powershell"
	"l4lab/lab/powershell/powershelltest"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

// server is be1's Windows as far as WinRM shows it: the project's simulated service,
// with a machine behind it that is plain data. No Windows is at hand.
type server struct {
	*wsman.Server
	address  string
	listener net.Listener

	mu       sync.Mutex
	boots    int
	signing  int // the boot from which on it counts; 0: off
	ebpf     string
	files    map[string][]byte
	calls    []string
	clock    int64
	recorded []byte
}

// windowsLab is a lab with be1 and be2 real Windows guests.
func windowsLab(t *testing.T) (*Provider, provider.Lab) {
	t.Helper()
	p, lab := fixture(t)
	dir := filepath.Dir(filepath.Dir(lab.Dir))
	p.o.WindowsProgram = filepath.Join(dir, "lbagent.exe")
	block := topology.QEMU{Images: topology.QEMUImages{Windows: "server"}, Windows: topology.QEMUWindows{EBPF: topology.EBPF{
		MSI: filepath.Join(dir, "ebpf.msi"), Programs: []string{filepath.Join(dir, "lb.sys")},
	}}}
	for _, path := range append(block.Windows.EBPF.Programs, block.Windows.EBPF.MSI, p.o.WindowsProgram) {
		if err := os.WriteFile(path, []byte("content of "+filepath.Base(path)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lab.Topology.Providers.QEMU = &block
	putWindowsImage(t, p, image.Image{Name: "server", OS: topology.Windows, SHA256: "sum", Firmware: image.BIOS})
	p.o.Limits = Limits{Windows: 20 * time.Second, Revive: 2 * time.Second, Refused: 300 * time.Millisecond, Pause: 10 * time.Millisecond}.withDefaults()
	return p, lab
}

func putWindowsImage(t *testing.T, p *Provider, img image.Image) {
	t.Helper()
	img.ID = img.Name + "-0123456789ab"
	dir := filepath.Join(p.o.Images.Dir, img.ID)
	img.Disk = filepath.Join(dir, "disk.qcow2")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(img)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "image.json"), data, 0o600)
	}
	if err == nil {
		err = os.WriteFile(img.Disk, nil, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// serve has be1 answer at an address of the loopback, to which the lab's client dials.
func serve(t *testing.T, p *Provider, lab provider.Lab) *server {
	t.Helper()
	cert, err := keys.Server(lab.Dir, "be1")
	if err != nil {
		t.Fatal(err)
	}
	password, err := keys.Password(lab.Dir, windowsPassword)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{files: map[string][]byte{}, boots: 1}
	m := powershelltest.New()
	s.answer(m)
	s.Server = &wsman.Server{Users: map[string]powershell.Password{"Administrator": powershell.Password(password)}, Run: s.run(m)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address, s.listener = l.Addr().String(), l
	go func() { _ = s.ServeTLS(l, cert.Pair()) }()
	t.Cleanup(s.stop)
	p.base = led{p.base, s.address}
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	return s
}

// stop has nobody answer any more.
func (s *server) stop() {
	_ = s.listener.Close()
	_ = s.Close()
}

// led is a base whose client comes to one address, wherever it wants to go.
type led struct {
	provider.Provider
	to string
}

func (l led) Machine(provider.Lab, string) (provider.Machine, error) {
	return provider.Machine{Guest: leading{to: l.to}}, nil
}

type leading struct {
	guest.Guest
	to string
}

func (g leading) Dial(ctx context.Context, network, _, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, g.to)
}

// run is what WinRM starts: the bootstrap with one of the verbs that are known.
func (s *server) run(m *powershelltest.Machine) func(context.Context, wsman.Process) int {
	known := map[string]powershell.Script{}
	guests, err := guestscripts.New().Contracts()
	if err != nil {
		panic(err)
	}
	for _, c := range guests {
		known[c.Hash()] = c.Script
	}
	for _, c := range transfer.NewVerbs().List() {
		known[c.Hash()] = c.Script
	}
	return func(ctx context.Context, p wsman.Process) int {
		q, err := powershell.ReadRequest(p.Stdin)
		if err != nil {
			fmt.Fprintln(p.Stderr, err)
			return 1
		}
		reply := powershell.NewReply(p.Stdout, q)
		script := known[q.Script.Hash()]
		s.mu.Lock()
		s.calls = append(s.calls, script.Name)
		s.mu.Unlock()
		var result json.RawMessage
		call := powershell.Call{Script: script, Input: q.Input, Result: &result, Stdin: q.Stdin, Stdout: reply.Stdout()}
		if err := reply.End(&result, m.Run(ctx, call)); err != nil {
			return 1
		}
		return 0
	}
}

func (s *server) answer(m *powershelltest.Machine) {
	v := guestscripts.New()
	s.answerFiles(m, v)
	changed := func() (guestscripts.Changed, error) { return guestscripts.Changed{Changed: true}, nil }
	powershelltest.On(m, v.Facts, func(context.Context, guestscripts.None) (guestscripts.FactsResult, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return guestscripts.FactsResult{
			Computer: "be1", BootTime: fmt.Sprint(s.boots), TestSigning: s.signing != 0 && s.boots >= s.signing, EBPF: s.ebpf,
			Adapters: []guestscripts.AdapterFacts{{Name: "Ethernet", MAC: "02-4C-14-01-01-0A", MTU: 1500, Addresses: []string{"20.1.1.10/24"}}},
		}, nil
	})
	powershelltest.On(m, v.AdapterEnsure, func(context.Context, guestscripts.AdapterEnsureParams) (guestscripts.Changed, error) {
		return changed()
	})
	powershelltest.On(m, v.SetupClean, func(context.Context, guestscripts.None) (guestscripts.Changed, error) { return changed() })
	powershelltest.On(m, v.ClockEnsure, func(_ context.Context, p guestscripts.ClockEnsureParams) (guestscripts.Changed, error) {
		s.clock = p.Seconds
		return changed()
	})
	powershelltest.On(m, v.TestSigningEnsure, func(context.Context, guestscripts.None) (guestscripts.RebootResult, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		reboot := s.signing == 0
		if reboot {
			s.signing = s.boots + 1
		}
		return guestscripts.RebootResult{Reboot: reboot}, nil
	})
	powershelltest.On(m, v.MSIEnsure, func(_ context.Context, p guestscripts.MSIEnsureParams) (guestscripts.RebootResult, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if sum := sha256.Sum256(s.files[p.Path]); hex.EncodeToString(sum[:]) != p.SHA256 {
			return guestscripts.RebootResult{}, fmt.Errorf("there is no such package at %s", p.Path)
		}
		s.ebpf = "0.21.1"
		return guestscripts.RebootResult{}, nil
	})
	powershelltest.On(m, v.Restart, func(context.Context, guestscripts.None) (guestscripts.None, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.boots++
		return guestscripts.None{}, nil
	})
	powershelltest.On(m, v.GuestCaptureStart, func(context.Context, guestscripts.None) (guestscripts.Changed, error) { return changed() })
	powershelltest.On(m, v.GuestCaptureStop, func(_ context.Context, p guestscripts.GuestCaptureStopParams) (guestscripts.GuestCaptureStopResult, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.files[p.Path] = s.recorded
		return guestscripts.GuestCaptureStopResult{Dropped: 2}, nil
	})
}

func (s *server) answerFiles(m *powershelltest.Machine, v guestscripts.Verbs) {
	t := transfer.NewVerbs()
	sum := func(data []byte) string { h := sha256.Sum256(data); return hex.EncodeToString(h[:]) }
	powershelltest.On(m, t.FileProbe, func(_ context.Context, p transfer.FileProbeParams) (transfer.FileProbeResult, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		data, ok := s.files[p.Path]
		return transfer.FileProbeResult{Exists: ok, Bytes: int64(len(data)), SHA256: sum(data)}, nil
	})
	powershelltest.OnCall(m, t.FileReceive, func(_ context.Context, c powershell.Call, p transfer.FileReceiveParams) (transfer.FileReceiveResult, error) {
		z, err := gzip.NewReader(c.Stdin)
		if err != nil {
			return transfer.FileReceiveResult{}, err
		}
		data, err := io.ReadAll(z)
		if err == nil && sum(data) != p.SHA256 {
			err = &powershell.ScriptError{Code: transfer.HashMismatch, Target: p.Path}
		}
		if err == nil {
			s.mu.Lock()
			s.files[p.Path] = data
			s.mu.Unlock()
		}
		return transfer.FileReceiveResult{Bytes: int64(len(data))}, err
	})
	powershelltest.OnCall(m, t.FileSend, func(_ context.Context, c powershell.Call, p transfer.FileSendParams) (transfer.FileSendResult, error) {
		s.mu.Lock()
		data := s.files[p.Path]
		s.mu.Unlock()
		z := gzip.NewWriter(c.Stdout)
		_, err := io.Copy(z, bytes.NewReader(data[p.Offset:]))
		if err == nil {
			err = z.Close()
		}
		return transfer.FileSendResult{Bytes: int64(len(data)), SHA256: sum(data)}, err
	})
	powershelltest.On(m, v.FileProbe, func(_ context.Context, p guestscripts.FileParams) (guestscripts.FileProbeResult, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		data, ok := s.files[p.Path]
		return guestscripts.FileProbeResult{Exists: ok, Bytes: int64(len(data)), SHA256: sum(data)}, nil
	})
	powershelltest.On(m, v.ServiceRemove, func(context.Context, guestscripts.ServiceRemoveParams) (guestscripts.Changed, error) {
		return guestscripts.Changed{}, nil
	})
}

// called returns the verbs that ran, each once, in the order of their first time.
func (s *server) called() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, c := range s.calls {
		if !slices.Contains(names, c) {
			names = append(names, c)
		}
	}
	return names
}

// file returns a file's content.
func (s *server) file(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.files[path])
}

// mac is be1's.
func mac(lab provider.Lab) string {
	return strings.ToUpper(strings.ReplaceAll(fabric.MACOf(lab.Topology.Nodes["be1"].Address).String(), ":", "-"))
}
