package hvsim

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"l4lab/lab/powershell"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
	"l4lab/lab/provider/hyperv/scripts"
)

// The lab that most tests are about.
const (
	mark   = "l4lab lab=demo owner=0123456789abcdef"
	others = "l4lab lab=demo owner=fedcba9876543210"
	folder = `C:\l4lab\demo`
	lan    = "l4lab-demo"
)

// startHost starts a host whose machines boot at once.
func startHost(t *testing.T, o Options) *Host {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	h, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return h
}

// direct is a Runner that hands a host the bytes that WinRM would, and reads
// the bytes that it answers with.
type direct struct{ h *Host }

func (d direct) Close(context.Context) error { return nil }

func (d direct) Run(ctx context.Context, c powershell.Call) error {
	var in bytes.Buffer
	head, err := callHead(c.Script, c.Input)
	if err != nil {
		return err
	}
	in.WriteString(head)
	if c.Stdin != nil {
		data, err := io.ReadAll(c.Stdin)
		if err != nil {
			return err
		}
		for len(data) > 0 {
			n := min(len(data), 48<<10)
			fmt.Fprintln(&in, base64.StdEncoding.EncodeToString(data[:n]))
			data = data[n:]
		}
		fmt.Fprintln(&in)
	}
	var out, errOut bytes.Buffer
	code := d.h.run(ctx, wsman.Process{User: DefaultUser, CommandLine: powershell.CommandLine(), Stdin: &in, Stdout: &out, Stderr: &errOut})
	if code != 0 {
		return fmt.Errorf("exit code %d: %s", code, errOut.String())
	}
	return readReply(c, &out)
}

const nonce = "00112233445566778899aabbccddeeff"

// callHead returns the three lines that begin a call.
func callHead(script powershell.Script, input any) (string, error) {
	text, err := json.Marshal(input)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s\n%s\n%s\n", nonce, base64.StdEncoding.EncodeToString([]byte(script.Text)), base64.StdEncoding.EncodeToString(text)), nil
}

func callText(t *testing.T, script powershell.Script, input any) string {
	t.Helper()
	head, err := callHead(script, input)
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// readReply takes an answer apart by the protocol's words alone.
func readReply(c powershell.Call, out io.Reader) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := lines.Text()
		if stream, data, ok := strings.Cut(line, ":"); ok && (stream == "1" || stream == "2") {
			text, err := base64.StdEncoding.DecodeString(data)
			if err != nil {
				return err
			}
			to := map[string]io.Writer{"1": c.Stdout, "2": c.Stderr}[stream]
			if to != nil {
				if _, err := to.Write(text); err != nil {
					return err
				}
			}
		}
		if line == "-----BEGIN l4lab "+nonce+"-----" && lines.Scan() {
			return readEnvelope(c, lines.Bytes())
		}
	}
	return errors.New("no envelope")
}

func readEnvelope(c powershell.Call, line []byte) error {
	if i := bytes.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("the envelope is not ASCII at %d: %q", i, line)
	}
	var e struct {
		OK     bool
		Result json.RawMessage
		Error  *struct{ Code, Message, Target string }
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	if !e.OK {
		return &powershell.ScriptError{Script: c.Script.Name, Code: e.Error.Code, Message: e.Error.Message, Target: e.Error.Target}
	}
	if c.Result == nil {
		return nil
	}
	return json.Unmarshal(e.Result, c.Result)
}

// bench is a host with a Runner to it.
type bench struct {
	t *testing.T
	h *Host
	r powershell.Runner
	v scripts.Verbs
}

func newBench(t *testing.T, o Options) bench {
	t.Helper()
	h := startHost(t, o)
	return bench{t, h, direct{h}, scripts.New()}
}

// must runs a verb that has to succeed.
func must[P, R any](b bench, v powershell.Verb[P, R], p P) R {
	b.t.Helper()
	r, err := v.Run(b.t.Context(), b.r, p)
	if err != nil {
		b.t.Fatalf("%s: %v", v.Name, err)
	}
	return r
}

// refuse runs a verb that has to fail with a code and with words in its message.
func refuse[P, R any](b bench, v powershell.Verb[P, R], p P, code string, words ...string) {
	b.t.Helper()
	_, err := v.Run(b.t.Context(), b.r, p)
	wantFailure(b.t, err, code, words...)
}

func wantFailure(t *testing.T, err error, code string, words ...string) {
	t.Helper()
	var failed *powershell.ScriptError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v, want a script's error of code %s", err, code)
	}
	if failed.Code != code {
		t.Errorf("got code %s (%s), want %s", failed.Code, failed.Message, code)
	}
	for _, word := range words {
		if !strings.Contains(failed.Message, word) {
			t.Errorf("the message lacks %q: %s", word, failed.Message)
		}
	}
}

// upload puts a file on the host as labctl does.
func (b bench) upload(path string, content []byte) {
	b.t.Helper()
	if err := b.tryUpload(path, content); err != nil {
		b.t.Fatal(err)
	}
}

func (b bench) tryUpload(path string, content []byte) error {
	p := transfer.FileReceiveParams{Path: path, Bytes: int64(len(content)), SHA256: sum(content)}
	return b.r.Run(b.t.Context(), powershell.Call{Script: b.v.FileReceive.Script, Input: p, Stdin: bytes.NewReader(packed(content))})
}

func (b bench) download(path string) []byte {
	b.t.Helper()
	var out bytes.Buffer
	err := b.r.Run(b.t.Context(), powershell.Call{Script: b.v.FileSend.Script, Input: transfer.FileSendParams{Path: path}, Stdout: &out})
	if err != nil {
		b.t.Fatal(err)
	}
	return unpacked(b.t, out.Bytes())
}

func packed(content []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(content)
	_ = w.Close()
	return b.Bytes()
}

func unpacked(t *testing.T, content []byte) []byte {
	t.Helper()
	if len(content) == 0 {
		return nil
	}
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func sum(content []byte) string {
	s := sha256.Sum256(content)
	return hex.EncodeToString(s[:])
}

// lay makes the lab's folder with its mark, its switch and its address.
func (b bench) lay() {
	b.t.Helper()
	b.upload(folder+`\l4lab.mark`, []byte(mark))
	must(b, b.v.SwitchEnsure, scripts.SwitchEnsureParams{Name: lan, Mark: mark})
	must(b, b.v.HostAddressEnsure, scripts.HostAddressEnsureParams{Switch: lan, Mark: mark, Addresses: []string{"20.1.1.100/24"}, MTU: 1500})
}

func diskOf(node string) string { return folder + `\disks\` + node + ".vhdx" }

// describe is how a lab describes a machine.
func describe(node string) scripts.VMEnsureParams {
	return scripts.VMEnsureParams{
		Name: "demo-" + node, Mark: mark, Node: node, Folder: folder, Generation: 2, MemoryMB: 2048, Processors: 1,
		Disk: diskOf(node), DVD: "", Switch: lan, MAC: "00155D010101", Spoofing: true, SecureBoot: "Off",
	}
}

// machine makes a machine of an image, off.
func (b bench) machine(node, image string, change ...func(*scripts.VMEnsureParams)) scripts.VMFacts {
	b.t.Helper()
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf(node), Parent: image, Folder: folder})
	p := describe(node)
	for _, c := range change {
		c(&p)
	}
	return must(b, b.v.VMEnsure, p).Machine
}

const (
	linuxImage   = `C:\images\linux.vhdx`
	windowsImage = `C:\images\windows.vhdx`
)

func (b bench) start(id string) {
	b.t.Helper()
	must(b, b.v.VMStart, scripts.VMParams{ID: id, Mark: mark})
}

func (b bench) observe() scripts.LabObserveResult {
	b.t.Helper()
	return must(b, b.v.LabObserve, scripts.LabObserveParams{Mark: mark, Switch: lan, Names: []string{lan, "demo-lb", "demo-be1"}, Folder: folder})
}

func mac(text string) func(*scripts.VMEnsureParams) {
	return func(p *scripts.VMEnsureParams) { p.MAC = text }
}

func textLog(to io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(to, nil)) }
