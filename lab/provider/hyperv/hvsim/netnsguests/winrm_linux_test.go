package netnsguests

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	hashes "l4lab/lab/guest"
	"l4lab/lab/guest/answer"
	"l4lab/lab/guest/disc"
	"l4lab/lab/guest/keys"
	"l4lab/lab/powershell"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
	"l4lab/lab/role"
	winrole "l4lab/lab/role/windows"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

// gate is WinRM in front of an emulated machine: the service that a guest has after
// the disc of package answer, with what Windows would do behind it.
type gate struct {
	w         *win
	contracts powershell.Contracts
	files     transfer.Verbs
}

func (g gate) run(ctx context.Context, p wsman.Process) int {
	q, err := powershell.ReadRequest(p.Stdin)
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	reply := powershell.NewReply(p.Stdout, q)
	result, err := g.answer(ctx, q, reply)
	if err := reply.End(result, err); err != nil {
		return 1
	}
	return 0
}

func (g gate) answer(ctx context.Context, q powershell.Request, reply *powershell.Reply) (any, error) {
	switch q.Script.Hash() {
	case g.files.FileProbe.Hash():
		return g.invoke(ctx, guestscripts.New().FileProbe.Contract(), q.Input)
	case g.files.FileReceive.Hash():
		return g.receive(ctx, q)
	case g.files.FileSend.Hash():
		return g.send(ctx, q, reply.Stdout())
	}
	c, known := g.contracts[q.Script.Hash()]
	if !known {
		return nil, fmt.Errorf("nothing known of a script with the SHA-256 %s", q.Script.Hash())
	}
	return g.invoke(ctx, c, q.Input)
}

func (g gate) invoke(ctx context.Context, c powershell.Contract, input json.RawMessage) (any, error) {
	return g.w.Invoke(ctx, g.w.m.ID, administrator, c, input)
}

func (g gate) receive(ctx context.Context, q powershell.Request) (any, error) {
	var p transfer.FileReceiveParams
	if err := json.Unmarshal(q.Input, &p); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(q.Stdin)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(g.w.dir, "receive-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	n, err := io.Copy(f, z)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if hash, err := hashes.HashFile(f.Name()); err != nil || hash != p.SHA256 {
		return nil, &powershell.ScriptError{Code: transfer.HashMismatch, Target: p.Path}
	}
	return transfer.FileReceiveResult{Bytes: n}, g.w.CopyIn(ctx, g.w.m.ID, administrator, f.Name(), p.Path)
}

func (g gate) send(ctx context.Context, q powershell.Request, to io.Writer) (any, error) {
	var p transfer.FileSendParams
	if err := json.Unmarshal(q.Input, &p); err != nil {
		return nil, err
	}
	path := filepath.Join(g.w.dir, "send")
	if err := g.w.CopyOut(ctx, g.w.m.ID, administrator, p.Path, path); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	hash, err := hashes.HashFile(path)
	if err != nil {
		return nil, err
	}
	z := gzip.NewWriter(to)
	_, err = z.Write(content[p.Offset:])
	return transfer.FileSendResult{Bytes: int64(len(content)), SHA256: hash}, errors.Join(err, z.Close())
}

// behindWinRM has a machine start with the disc's answer file, and returns its guest as
// the QEMU provider makes it.
func behindWinRM(t *testing.T, w *win, address string) *winrole.Machine {
	t.Helper()
	labDir := t.TempDir()
	server, err := keys.Server(labDir, "be1")
	if err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	err = answer.Write(&image, answer.Disc{
		Name: "be1", Password: password, MAC: w.m.MAC, Address: netip.PrefixFrom(netip.MustParseAddr(address), 24), Certificate: server,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, files, err := disc.Read(bytes.NewReader(image.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	w.m.Unattend = files["unattend.xml"]
	w.start(w.m)

	contracts, err := w.verbs.Contracts()
	if err != nil {
		t.Fatal(err)
	}
	s := &wsman.Server{
		Users: map[string]powershell.Password{answer.Administrator: password},
		Run:   gate{w, contracts, transfer.NewVerbs()}.run,
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.ServeTLS(l, server.Pair()) }()
	t.Cleanup(func() { _ = s.Close() })
	runner := powershell.Later(func(ctx context.Context) (powershell.Runner, error) {
		return powershell.Connect(ctx, powershell.Endpoint{
			Host: address, Port: 5986, Fingerprint: server.Fingerprint(), User: answer.Administrator, Password: password,
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, l.Addr().String())
			},
		})
	})
	t.Cleanup(func() {
		if err := runner.Close(context.Background()); err != nil || s.Shells() != 0 {
			t.Errorf("%d shells are left: %v", s.Shells(), err)
		}
	})
	m, err := winrole.New(winrole.Options{
		Machine: "be1", Address: netip.MustParseAddr(address), MAC: w.m.MAC, Runner: runner, Upload: winrole.Uploader(runner), StartLimit: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAMachineThatServesWinRMIsSetUpAndServesItsPage(t *testing.T) {
	r := newRig(t, "twr", nil)
	r.lan()
	w := r.windows("be1", "20.1.1.10")
	m := behindWinRM(t, w, "20.1.1.10")
	dir := t.TempDir()
	write := func(name string, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program := write("lbagent.exe", "MZ stands for the program")
	outfit := winrole.Outfit{
		PrefixLength: 24, MTU: 1500, Block: "providers.qemu.windows.ebpf", Program: program,
		EBPF: topology.EBPF{
			Profile: topology.ProfileEFW, MSI: write("ebpf-for-windows.0.21.1.msi", "a package"),
			Programs: []string{write("lb.sys", "MZ"), write("decap_xdp.sys", "MZ")},
		},
		Restart: winrole.Restart{Way: "WinRM", Limit: 30 * time.Second, Pause: 50 * time.Millisecond},
	}
	for range 2 { // again changes nothing
		if err := m.SetUp(t.Context(), outfit); err != nil {
			t.Fatal(err)
		}
	}
	facts, err := m.Facts(t.Context())
	if err != nil || !facts.TestSigning || facts.EBPF == "" || facts.Computer != "be1" {
		t.Errorf("facts %+v, %v", facts, err)
	}
	if mtu, faults := m.Differences(facts, 24, 1500); mtu != 1500 || len(faults) != 0 {
		t.Errorf("mtu %d, faults %q", mtu, faults)
	}
	// The file with the password is gone from the machine.
	if left := do(w, w.verbs.FileProbe, guestscripts.FileParams{Path: `C:\Windows\Panther\unattend.xml`}); left.Exists {
		t.Error("the answer file is still there")
	}
	hash, err := hashes.HashFile(program)
	if err != nil {
		t.Fatal(err)
	}
	page := role.Page{Name: "be1", OS: topology.Windows, Address: m.Address, TCP: []uint16{80}, Program: program, Hash: hash}
	decap := role.Decap{Hook: role.XDP, Address: m.Address, Balancer: netip.MustParseAddr("20.1.1.1"), Program: program, Hash: hash}
	for what, err := range map[string]error{"page": m.EnsurePage(t.Context(), page), "decapsulation": m.EnsureDecap(t.Context(), decap)} {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	running := func(when string) {
		t.Helper()
		seen, err := m.Observe(t.Context())
		if err != nil || seen.Page.Spec != page.Spec() || seen.Page.PID == 0 || seen.Decap.Spec != decap.Spec() {
			t.Errorf("%s: %+v, %v", when, seen, err)
		}
		r.await(when+", its page is there for the network", func() bool {
			c, err := r.HostDial(t.Context(), "tcp", "20.1.1.10:80")
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
	running("set up")
	if err := m.RestartAndAwait(t.Context(), outfit.Restart); err != nil {
		t.Fatal(err)
	}
	r.await("the services after a restart", func() bool {
		seen, err := m.Observe(t.Context())
		return err == nil && seen.Page.PID != 0
	})
	running("restarted")
	if err := m.EnsureClock(t.Context()); err != nil {
		t.Error(err)
	}
}
