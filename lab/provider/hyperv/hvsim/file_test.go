package hvsim

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"l4lab/lab/powershell"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider/hyperv/scripts"
)

func noise(n int) []byte {
	content := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(content)
	return content
}

func TestAFileGoesUpAndDownWhole(t *testing.T) {
	b := newBench(t, Options{})
	for _, size := range []int{0, 1, pieceSize - 1, pieceSize, pieceSize + 1, 3*pieceSize + 7} {
		content := noise(size)
		path := `C:\new\folder\f`
		b.upload(path, content)
		r := must(b, b.v.FileProbe, transfer.FileProbeParams{Path: path})
		if !r.Exists || r.Bytes != int64(size) || r.SHA256 != sum(content) || r.PartBytes != 0 || r.PartSHA256 != "" {
			t.Errorf("%d bytes: probed %+v", size, r)
		}
		if got := b.download(path); !bytes.Equal(got, content) {
			t.Errorf("%d bytes came back as %d", size, len(got))
		}
	}
}

func TestAnUploadThatWasCutOffGoesOn(t *testing.T) {
	b := newBench(t, Options{})
	content := noise(200_000)
	path := folder + `\bin\lbagent.exe`
	p := transfer.FileReceiveParams{Path: path, Bytes: int64(len(content)), SHA256: sum(content)}
	whole := packed(content)
	err := b.r.Run(t.Context(), powershell.Call{Script: b.v.FileReceive.Script, Input: p, Stdin: bytes.NewReader(whole[:len(whole)/2])})
	wantFailure(t, err, "hashMismatch", "ended at")
	r := must(b, b.v.FileProbe, transfer.FileProbeParams{Path: path})
	if r.Exists || r.PartBytes == 0 || r.PartBytes >= p.Bytes || r.PartSHA256 != sum(content[:r.PartBytes]) {
		t.Fatalf("after the cut: %+v", r)
	}
	p.Offset = r.PartBytes
	err = b.r.Run(t.Context(), powershell.Call{Script: b.v.FileReceive.Script, Input: p, Stdin: bytes.NewReader(packed(content[r.PartBytes:]))})
	if err != nil {
		t.Fatal(err)
	}
	if r := must(b, b.v.FileProbe, transfer.FileProbeParams{Path: path}); !r.Exists || r.SHA256 != sum(content) || r.PartBytes != 0 {
		t.Errorf("at the end: %+v", r)
	}
}

func TestUploadsThatCannotBeAreRefused(t *testing.T) {
	b := newBench(t, Options{DiskMB: 1})
	path := `C:\f`
	receive := func(p transfer.FileReceiveParams, stdin []byte) error {
		return b.r.Run(t.Context(), powershell.Call{Script: b.v.FileReceive.Script, Input: p, Stdin: bytes.NewReader(stdin)})
	}
	probe := func() transfer.FileProbeResult { return must(b, b.v.FileProbe, transfer.FileProbeParams{Path: path}) }
	wantFailure(t, receive(transfer.FileReceiveParams{Path: path, Bytes: 3, SHA256: sum([]byte("xyz"))}, packed([]byte("abc"))), "hashMismatch")
	wantFailure(t, receive(transfer.FileReceiveParams{Path: path, Bytes: 2, SHA256: sum([]byte("ab"))}, packed([]byte("abc"))), "hashMismatch")
	if r := probe(); r.PartBytes != 0 || r.Exists {
		t.Errorf("what was wrong stayed: %+v", r)
	}
	wantFailure(t, receive(transfer.FileReceiveParams{Path: path, Offset: 5, Bytes: 10, SHA256: sum(nil)}, packed([]byte("abcde"))), "hashMismatch", "has 0 bytes")
	wantFailure(t, receive(transfer.FileReceiveParams{Path: path, Offset: 11, Bytes: 10, SHA256: sum(nil)}, nil), "InvalidParameter")
	wantFailure(t, receive(transfer.FileReceiveParams{Path: path, Bytes: 3, SHA256: sum(nil)}, []byte("this is no gzip stream")), "InvalidDataException")
	wantFailure(t, receive(transfer.FileReceiveParams{Path: path, Bytes: 2 << 20, SHA256: sum(nil)}, nil), "noSpace", "bytes are free")
	if r := probe(); r.Exists {
		t.Errorf("a refusal left %+v", r)
	}
}

func TestADownloadGoesOnWhereItBroke(t *testing.T) {
	b := newBench(t, Options{})
	content := noise(150_000)
	b.upload(`C:\f`, content)
	var out bytes.Buffer
	var r transfer.FileSendResult
	err := b.r.Run(t.Context(), powershell.Call{
		Script: b.v.FileSend.Script, Input: transfer.FileSendParams{Path: `C:\f`, Offset: 100_000}, Stdout: &out, Result: &r,
	})
	if err != nil || !bytes.Equal(unpacked(t, out.Bytes()), content[100_000:]) || r.Bytes != 150_000 || r.SHA256 != sum(content) {
		t.Errorf("got %+v, %v", r, err)
	}
	refuse(b, b.v.FileSend, transfer.FileSendParams{Path: `C:\g`, Offset: 0}, "notFound")
	refuse(b, b.v.FileSend, transfer.FileSendParams{Path: `C:\f`, Offset: 150_001}, "InvalidParameter")
}

func TestOnlyAFolderWithTheLabsMarkIsRemoved(t *testing.T) {
	b := newBench(t, Options{})
	remove := func(paths ...string) scripts.FilesRemoveParams {
		return scripts.FilesRemoveParams{Folder: folder, Mark: mark, Paths: paths}
	}
	if r := must(b, b.v.FilesRemove, remove()); r.Removed {
		t.Error("what was not there was removed")
	}
	b.upload(folder+`\seeds\lb.iso`, []byte("iso"))
	refuse(b, b.v.FilesRemove, remove(), "foreign")
	b.upload(folder+`\l4lab.mark`, []byte(others))
	refuse(b, b.v.FilesRemove, remove(), "foreign")
	b.upload(folder+`\l4lab.mark`, []byte(mark+"\r\n"))
	for _, outside := range []string{`C:\images\linux.vhdx`, folder, folder + `2\x`, folder + `\..\x`, `..\x`, `D:\l4lab\demo\x`} {
		refuse(b, b.v.FilesRemove, remove(folder+`\seeds\lb.iso`, outside), "foreign", "not below")
	}
	if !must(b, b.v.FileProbe, transfer.FileProbeParams{Path: folder + `\seeds\lb.iso`}).Exists {
		t.Error("a refusal removed what came before")
	}
	if r := must(b, b.v.FilesRemove, remove(`seeds\LB.iso`, `none`)); !r.Removed {
		t.Error("a relative path was not removed")
	}
	if r := must(b, b.v.FilesRemove, remove("")); !r.Removed {
		t.Error("the folder was not removed")
	}
	refuse(b, b.v.FilesRemove, scripts.FilesRemoveParams{Folder: `C:\`, Mark: mark, Paths: nil}, "foreign", "drive")
}

func TestPathsAreWindowsPaths(t *testing.T) {
	b := newBench(t, Options{})
	b.upload(`C:\Some Folder\Ä.txt`, []byte("x"))
	for name, path := range map[string]string{
		"another case":              `c:\SOME FOLDER\ä.TXT`,
		"forward slashes":           `C:/Some Folder/Ä.txt`,
		"doubled and trailing ones": `C:\\Some Folder\\\Ä.txt\`,
	} {
		t.Run(name, func(t *testing.T) {
			if r := must(b, b.v.FileProbe, transfer.FileProbeParams{Path: path}); !r.Exists {
				t.Errorf("%s was not found", path)
			}
		})
	}
	for name, path := range map[string]string{
		"relative":                `Some Folder\f`,
		"relative to a drive":     `C:f`,
		"of no drive":             `\f`,
		"to another machine":      `\\server\share\f`,
		"of a device":             `\\.\PhysicalDrive0`,
		"past the parser":         `\\?\C:\f`,
		"up":                      `C:\a\..\f`,
		"up by more dots":         `C:\a\...\f`,
		"here":                    `C:\a\.\f`,
		"up by slashes":           `C:\a/../f`,
		"a device":                `C:\a\NUL`,
		"a device with a suffix":  `C:\a\com1.txt`,
		"a console":               `C:\a\CONOUT$`,
		"a stream":                `C:\a\f:secret`,
		"a wildcard":              `C:\a\*`,
		"a quote":                 `C:\a\"`,
		"a dot at the end":        `C:\a\f.`,
		"a space at the end":      `C:\a\f `,
		"a control character":     "C:\\a\\f\x01",
		"a null byte":             "C:\\a\\f\x00",
		"a name that is too long": `C:\` + strings.Repeat("x", 256),
	} {
		t.Run(name, func(t *testing.T) {
			refuse(b, b.v.FileProbe, transfer.FileProbeParams{Path: path}, "NotSupportedException")
		})
	}
	refuse(b, b.v.FileProbe, transfer.FileProbeParams{Path: `Z:\f`}, "DriveNotFound")
}

func TestWhichFilesAreANodes(t *testing.T) {
	for file, want := range map[string]bool{
		"lb.vhdx": true, "LB.iso": true, "lb_1a2b.avhdx": true, "lb-0123456789ab.iso": true, "lb-0123456789ab.vhdx": false,
		"lb-x.iso": false, "lb2.vhdx": false, "lb2-0123456789ab.iso": false, "lb-2-0123456789ab.iso": false,
	} {
		if got := isOfNode(file, "lb"); got != want {
			t.Errorf("%s: %t, want %t", file, got, want)
		}
	}
}

func TestAFileKnowsWhatLiesBesideIt(t *testing.T) {
	b := newBench(t, Options{})
	probe := func() int {
		return must(b, b.v.FileProbe, transfer.FileProbeParams{Path: folder + `\l4lab.mark`}).Beside
	}
	if n := probe(); n != 0 {
		t.Errorf("%d files in a folder that is not there", n)
	}
	b.upload(folder+`\seeds\lb.iso`, []byte("iso"))
	b.upload(folder+`\l4lab.mark`, []byte(mark))
	if n := probe(); n != 1 {
		t.Errorf("%d beside the mark, want the folder of seeds", n)
	}
}
