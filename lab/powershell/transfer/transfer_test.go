package transfer_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"l4lab/lab/powershell"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
)

// disk is a machine that knows the three verbs of files.
type disk struct {
	verbs transfer.Verbs
	mu    sync.Mutex
	files map[string][]byte
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func (d *disk) get(path string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.files[path]
}

func (d *disk) set(path string, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b == nil {
		delete(d.files, path)
		return
	}
	d.files[path] = b
}

func (d *disk) run(_ context.Context, p wsman.Process) int {
	q, err := powershell.ReadRequest(p.Stdin)
	if err != nil {
		return 1
	}
	r := powershell.NewReply(p.Stdout, q)
	var result any
	switch q.Script.Hash() {
	case d.verbs.FileProbe.Hash():
		result, err = d.probe(q)
	case d.verbs.FileReceive.Hash():
		result, err = d.receive(q)
	case d.verbs.FileSend.Hash():
		result, err = d.send(q, r.Stdout())
	default:
		return 2
	}
	_ = r.End(result, err)
	return 0
}

func (d *disk) probe(q powershell.Request) (any, error) {
	var p transfer.FileProbeParams
	if err := json.Unmarshal(q.Input, &p); err != nil {
		return nil, err
	}
	var r transfer.FileProbeResult
	if b := d.get(p.Path); b != nil {
		r.Exists, r.Bytes, r.SHA256 = true, int64(len(b)), strings.ToUpper(sum(b))
	}
	if b := d.get(p.Path + ".part"); b != nil {
		r.PartBytes, r.PartSHA256 = int64(len(b)), sum(b)
	}
	return r, nil
}

func (d *disk) receive(q powershell.Request) (any, error) {
	var p transfer.FileReceiveParams
	if err := json.Unmarshal(q.Input, &p); err != nil {
		return nil, err
	}
	part := bytes.NewBuffer(bytes.Clone(d.get(p.Path + ".part")[:p.Offset]))
	z, err := gzip.NewReader(q.Stdin)
	if err == nil {
		_, err = io.Copy(part, z)
	}
	d.set(p.Path+".part", part.Bytes())
	if err != nil {
		return nil, err
	}
	if sum(part.Bytes()) != p.SHA256 || int64(part.Len()) != p.Bytes {
		d.set(p.Path+".part", nil)
		return nil, &powershell.ScriptError{Code: transfer.HashMismatch, Message: "what came is not the file", Target: p.Path}
	}
	d.set(p.Path, part.Bytes())
	d.set(p.Path+".part", nil)
	return transfer.FileReceiveResult{Bytes: p.Bytes}, nil
}

func (d *disk) send(q powershell.Request, w io.Writer) (any, error) {
	var p transfer.FileSendParams
	if err := json.Unmarshal(q.Input, &p); err != nil {
		return nil, err
	}
	all := d.get(p.Path)
	for b := all[p.Offset:]; len(b) > 0; {
		n := min(len(b), 48*1024)
		var member bytes.Buffer
		z := gzip.NewWriter(&member)
		_, _ = z.Write(b[:n])
		_ = z.Close()
		if _, err := w.Write(member.Bytes()); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	return transfer.FileSendResult{Bytes: int64(len(all)), SHA256: sum(all)}, nil
}

// newDisk is a disk behind a WinRM service.
func newDisk(t testing.TB, configure func(*wsman.Server)) (*disk, powershell.Runner, *wsman.Server) {
	t.Helper()
	d := &disk{verbs: transfer.NewVerbs(), files: map[string][]byte{}}
	s := &wsman.Server{Users: map[string]powershell.Password{"lab": "secret"}, Run: d.run}
	if configure != nil {
		configure(s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, fingerprint, err := wsman.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.ServeTLS(l, cert) }()
	t.Cleanup(func() { _ = s.Close() })
	r, err := powershell.Connect(t.Context(), powershell.Endpoint{
		Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Fingerprint: fingerprint, User: "lab", Password: "secret", Timeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil || s.Shells() != 0 {
			t.Errorf("close: %v, %d shells left", err, s.Shells())
		}
	})
	return d, r, s
}

// noise is data that does not shrink.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

const path = `C:\l4lab\demo\bin\lbagent.exe`

func TestAFileArrivesWholeAndComesBack(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty": {}, "a byte": {7}, "a line": noise(48 * 1024), "several envelopes": noise(1<<20 + 13), "zeros": make([]byte, 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			d, r, _ := newDisk(t, nil)
			last := int64(-1)
			progress := func(done, total int64) {
				if done < last || total != int64(len(data)) {
					t.Errorf("progress went from %d to %d of %d", last, done, total)
				}
				last = done
			}
			if err := transfer.Upload(t.Context(), r, d.verbs, bytes.NewReader(data), path, progress); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(d.get(path), data) || d.get(path+".part") != nil || last != int64(len(data)) {
				t.Errorf("the host has %d of %d bytes, progress ended at %d", len(d.get(path)), len(data), last)
			}
			var got bytes.Buffer
			if err := transfer.Download(t.Context(), r, d.verbs, path, &got, nil); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d of %d bytes came back", got.Len(), len(data))
			}
		})
	}
}

func TestAFileThatIsThereIsNotSentAgain(t *testing.T) {
	d, r, s := newDisk(t, nil)
	data := noise(1 << 20)
	d.set(path, data)
	before := s.Requests()
	if err := transfer.Upload(t.Context(), r, d.verbs, bytes.NewReader(data), path, nil); err != nil {
		t.Fatal(err)
	}
	if n := s.Requests() - before; n > 8 {
		t.Errorf("%d requests", n)
	}
}

func TestAnUploadGoesOnWhereItsPartEnds(t *testing.T) {
	data := noise(1 << 20)
	for name, c := range map[string]struct {
		part  []byte
		first int64 // the least byte that progress may tell
	}{
		"the file's beginning":   {data[:900_000], 900_000},
		"another file's":         {make([]byte, 900_000), 1},
		"more than the file has": {append(bytes.Clone(data), 1), 1},
		"the whole file":         {data, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			d, r, _ := newDisk(t, nil)
			d.set(path+".part", c.part)
			first := int64(-1)
			err := transfer.Upload(t.Context(), r, d.verbs, bytes.NewReader(data), path, func(done, _ int64) {
				if first < 0 {
					first = done
				}
			})
			if err != nil || !bytes.Equal(d.get(path), data) {
				t.Fatalf("%v, the host has %d bytes", err, len(d.get(path)))
			}
			if first < c.first || c.first == 1 && first > 100_000 {
				t.Errorf("it began at %d", first)
			}
		})
	}
}

func TestATransferSurvivesBrokenConnections(t *testing.T) {
	data := noise(2 << 20)
	for name, kind := range map[string]wsman.FaultKind{"reset before": wsman.Reset, "reset after": wsman.ResetAfter, "truncated": wsman.Truncated, "shells lost": wsman.ShellLost} {
		t.Run(name, func(t *testing.T) {
			var sends, receives atomic.Int64
			d, r, _ := newDisk(t, func(s *wsman.Server) {
				s.Faults = func(_ int, action string) *wsman.Fault {
					if strings.HasSuffix(action, "/Send") && sends.Add(1) == 5 || strings.HasSuffix(action, "/Receive") && receives.Add(1) == 12 {
						return &wsman.Fault{Kind: kind}
					}
					return nil
				}
			})
			if err := transfer.Upload(t.Context(), r, d.verbs, bytes.NewReader(data), path, nil); err != nil {
				t.Errorf("upload: %v", err)
			}
			if !bytes.Equal(d.get(path), data) {
				t.Errorf("the host has %d of %d bytes", len(d.get(path)), len(data))
			}
			d.set(path, data)
			var got bytes.Buffer
			if err := transfer.Download(t.Context(), r, d.verbs, path, &got, nil); err != nil {
				t.Errorf("download: %v", err)
			}
			if !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d of %d bytes came back", got.Len(), len(data))
			}
			if sends.Load() < 5 || receives.Load() < 12 {
				t.Errorf("%d sends and %d receives are too few for the faults", sends.Load(), receives.Load())
			}
		})
	}
}

// cut breaks after some bytes in all.
type cut struct {
	io.ReadSeeker
	left int
}

func (c *cut) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("disk error")
	}
	n, err := c.ReadSeeker.Read(b)
	c.left -= n
	return n, err
}

func TestFaultsOfFilesHaveTheirNames(t *testing.T) {
	d, r, _ := newDisk(t, nil)
	notFound := transfer.Download(t.Context(), r, d.verbs, path, io.Discard, nil)
	if !errors.Is(notFound, &powershell.ScriptError{Code: transfer.NotFound}) || !strings.Contains(fmt.Sprint(notFound), path) {
		t.Errorf("a file that is not there: %v", notFound)
	}
	if err := transfer.Upload(t.Context(), r, d.verbs, &cut{bytes.NewReader(noise(200_000)), 300_000}, path, nil); err == nil || !strings.Contains(err.Error(), "disk error") {
		t.Errorf("a source that breaks: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := transfer.Upload(ctx, r, d.verbs, bytes.NewReader([]byte("x")), path, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	d.set(path, []byte("whole"))
	if err := transfer.Download(t.Context(), r, d.verbs, path, fullDisk{}, nil); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a target that is full: %v", err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no room") }

// Twelve megabytes that do not shrink, envelopes of 500 KB, 2 ms a round trip:
// the figure that the package's comment speaks of.
func BenchmarkUpload(b *testing.B) {
	data := noise(large)
	d, r, s := newDisk(b, func(s *wsman.Server) { s.Latency = 2 * time.Millisecond })
	b.SetBytes(int64(len(data)))
	before := s.Requests()
	for b.Loop() {
		d.set(path, nil)
		if err := transfer.Upload(b.Context(), r, d.verbs, bytes.NewReader(data), path, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(s.Requests()-before)/float64(b.N), "requests/op")
}

// BenchmarkDownload is the same way back.
func BenchmarkDownload(b *testing.B) {
	data := noise(large)
	d, r, s := newDisk(b, func(s *wsman.Server) { s.Latency = 2 * time.Millisecond })
	d.set(path, data)
	b.SetBytes(int64(len(data)))
	before := s.Requests()
	for b.Loop() {
		if err := transfer.Download(b.Context(), r, d.verbs, path, io.Discard, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(s.Requests()-before)/float64(b.N), "requests/op")
}

// An envelope is what bounds an upload: as many requests as envelopes, and a
// few to probe, to begin and to receive.
func TestAnUploadTakesAsManyRequestsAsItHasEnvelopes(t *testing.T) {
	data := noise(large)
	d, r, s := newDisk(t, func(s *wsman.Server) { s.Latency = 2 * time.Millisecond })
	before, began := s.Requests(), time.Now()
	if err := transfer.Upload(t.Context(), r, d.verbs, bytes.NewReader(data), path, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes in %s with %d requests", large, time.Since(began).Round(time.Millisecond), s.Requests()-before)
	if !bytes.Equal(d.get(path), data) {
		t.Error("it is another file")
	}
	// Standard input goes as soon as there is any, so that some envelopes are not
	// full; time is the machine's own, and requests are what is held to.
	if n, envelopes := s.Requests()-before, large/285_690+1; n > 2*envelopes+20 {
		t.Errorf("%d requests for %d envelopes", n, envelopes)
	}
}
