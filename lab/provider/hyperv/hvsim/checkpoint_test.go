package hvsim

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l4lab/lab/provider/hyperv/scripts"
)

func TestACheckpointBringsAMachinesDiskBack(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	vm := b.machine("lb", linuxImage)
	b.start(vm.ID)
	disk := b.h.diskDir(vm.ID)
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(disk, "f"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("before")
	setup := scripts.CheckpointParams{ID: vm.ID, Mark: mark, Name: "setup"}
	if r := must(b, b.v.CheckpointCreate, setup); !r.Changed {
		t.Error("no checkpoint was made")
	}
	if r := must(b, b.v.CheckpointCreate, setup); r.Changed {
		t.Error("two of one name were made")
	}
	write("after")
	if r := must(b, b.v.CheckpointRestore, setup); !slices.Equal(r.What, []string{"restored"}) {
		t.Errorf("restored: %+v", r)
	}
	if text, err := os.ReadFile(filepath.Join(disk, "f")); string(text) != "before" {
		t.Errorf("the disk has %q, %v", text, err)
	}
	if st := b.observe().Machines[0]; st.State != "Off" || !slices.Equal(st.Checkpoints, []string{"setup"}) {
		t.Errorf("got %+v", st)
	}
	refuse(b, b.v.CheckpointRestore, scripts.CheckpointParams{ID: vm.ID, Mark: mark, Name: "other"}, "notFound", "other")
	if r := must(b, b.v.CheckpointRemove, setup); !r.Removed {
		t.Error("it was not removed")
	}
	if r := must(b, b.v.CheckpointRemove, setup); r.Removed {
		t.Error("it was removed twice")
	}
}

func TestCheckpointsMakeAndMergeDifferencingDisks(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	vm := b.machine("lb", linuxImage)
	named := func(name string) scripts.CheckpointParams {
		return scripts.CheckpointParams{ID: vm.ID, Mark: mark, Name: name}
	}
	disk := func() string { return b.observe().Machines[0].Disks[0] }
	files := func() int {
		entries, err := os.ReadDir(must2(b.h.drives.real(folder + `\disks`)))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	check := func(when string, wantFiles int, wantBase bool) {
		t.Helper()
		if files() != wantFiles || (disk() == diskOf("lb")) != wantBase {
			t.Errorf("%s: %d files, disk %s", when, files(), disk())
		}
	}
	must(b, b.v.CheckpointCreate, named("one"))
	check("with one checkpoint the machine writes to an avhdx", 2, false)
	if !strings.HasSuffix(disk(), ".avhdx") || !strings.HasPrefix(disk(), folder+`\disks\lb_`) {
		t.Errorf("the disk is %s", disk())
	}
	if r := must(b, b.v.VMEnsure, describe("lb")); r.Changed.Changed {
		t.Errorf("a checkpoint looks like another disk: %+v", r)
	}
	must(b, b.v.CheckpointCreate, named("two"))
	check("with two", 3, false)
	must(b, b.v.CheckpointRestore, named("one"))
	check("going back to the first drops what was written since and starts a branch", 3, false)
	must(b, b.v.CheckpointRemove, named("one"))
	check("a frozen file with two branches stays", 3, false)
	must(b, b.v.CheckpointRemove, named("two"))
	check("with the last checkpoint all is merged", 1, true)
	b.start(vm.ID)
}

func TestACheckpointNeedsRoom(t *testing.T) {
	b := newBench(t, Options{DiskMB: 1})
	b.lay()
	vm := b.machine("lb", linuxImage)
	free := must2(b.h.freeBytes())
	b.upload(`C:\fill`, make([]byte, free-10))
	refuse(b, b.v.CheckpointCreate, scripts.CheckpointParams{ID: vm.ID, Mark: mark, Name: "setup"}, "noSpace")
	if got := b.observe().Machines[0]; len(got.Checkpoints) != 0 || got.Disks[0] != diskOf("lb") {
		t.Errorf("a refusal left %+v", got)
	}
}

func TestDisksAreOfTheirParentsAndNeverWrittenOver(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	p := scripts.DiskEnsureParams{Path: diskOf("lb"), Parent: linuxImage, Folder: folder}
	if r := must(b, b.v.DiskEnsure, p); !r.Changed {
		t.Error("no disk was made")
	}
	if r := must(b, b.v.DiskEnsure, p); r.Changed {
		t.Error("it was made twice")
	}
	change := func(f func(*scripts.DiskEnsureParams)) scripts.DiskEnsureParams {
		q := p
		f(&q)
		return q
	}
	refuse(b, b.v.DiskEnsure, change(func(q *scripts.DiskEnsureParams) { q.Parent = windowsImage }), "foreign", "whose parent is")
	refuse(b, b.v.DiskEnsure, change(func(q *scripts.DiskEnsureParams) { q.Parent = `C:\images\bsd.vhdx` }), "notFound", "bsd")
	refuse(b, b.v.DiskEnsure, change(func(q *scripts.DiskEnsureParams) { q.Path = `C:\other\lb.vhdx` }), "foreign", "not be below")
	refuse(b, b.v.DiskEnsure, change(func(q *scripts.DiskEnsureParams) { q.Path = folder + `\..\lb.vhdx` }), "foreign")
	refuse(b, b.v.DiskEnsure, change(func(q *scripts.DiskEnsureParams) { q.Path = folder + `\lb.vhd` }), "InvalidParameter", "format")
	b.upload(diskOf("own"), []byte("something else"))
	refuse(b, b.v.DiskEnsure, change(func(q *scripts.DiskEnsureParams) { q.Path = diskOf("own") }), "OperationFailed", "corrupted")
	refuse(b, b.v.DiskEnsure, change(func(q *scripts.DiskEnsureParams) { q.Parent, q.Path = diskOf("own"), diskOf("be1") }), "OperationFailed", "corrupted")
}

func TestImagesAreProbed(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	probe := func(path string) scripts.ImageProbeResult {
		return must(b, b.v.ImageProbe, scripts.ImageProbeParams{Path: path, Hash: true})
	}
	content := b.download(linuxImage)
	if string(content) != `{"l4labImage":1,"os":"linux"}` {
		t.Errorf("the image is %s", content)
	}
	if r := probe(`c:\Images\LINUX.vhdx`); !r.Exists || r.Bytes != int64(len(content)) || r.SHA256 != sum(content) || r.Format != "VHDX" || r.Type != "Dynamic" || r.Attached {
		t.Errorf("got %+v", r)
	}
	if r := probe(`C:\images\none.vhdx`); r.Exists {
		t.Errorf("got %+v", r)
	}
	vm := b.machine("lb", linuxImage)
	if r := probe(diskOf("lb")); r.Type != "Differencing" || r.Attached {
		t.Errorf("got %+v", r)
	}
	b.start(vm.ID)
	if r := probe(diskOf("lb")); !r.Attached {
		t.Errorf("got %+v", r)
	}
	b.upload(`C:\images\broken.vhdx`, []byte("MZ"))
	refuse(b, b.v.ImageProbe, scripts.ImageProbeParams{Path: `C:\images\broken.vhdx`, Hash: false}, "OperationFailed", "corrupted")
}

func TestAnAnswerFileGoesIntoADiskThatNobodyUses(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	vm := b.machine("be1", windowsImage)
	p := scripts.UnattendWriteParams{Disk: diskOf("be1"), Content: base64.StdEncoding.EncodeToString([]byte("<unattend/>"))}
	if r := must(b, b.v.UnattendWrite, p); !r.Changed {
		t.Error("nothing was written")
	}
	if r := must(b, b.v.UnattendWrite, p); r.Changed {
		t.Error("the same was written twice")
	}
	b.start(vm.ID)
	refuse(b, b.v.UnattendWrite, p, "inUse", "demo-be1")
	must(b, b.v.VMStop, scripts.VMStopParams{ID: vm.ID, Mark: mark})
	refuse(b, b.v.UnattendWrite, scripts.UnattendWriteParams{Disk: diskOf("be2"), Content: "PHg+"}, "notFound")
	refuse(b, b.v.UnattendWrite, scripts.UnattendWriteParams{Disk: windowsImage, Content: "PHg+"}, "InvalidParameter", "not written")
	refuse(b, b.v.UnattendWrite, scripts.UnattendWriteParams{Disk: diskOf("be1"), Content: "%"}, "FormatException")
	must(b, b.v.DiskEnsure, scripts.DiskEnsureParams{Path: diskOf("lb"), Parent: linuxImage, Folder: folder})
	refuse(b, b.v.UnattendWrite, scripts.UnattendWriteParams{Disk: diskOf("lb"), Content: "PHg+"}, "notFound", "no Windows")
}

func TestAParentInUseIsNeitherRemovedNorReplaced(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	parent := folder + `\own.vhdx`
	b.upload(parent, []byte(`{"l4labImage":1,"os":"linux"}`))
	vm := b.machine("lb", parent)
	b.start(vm.ID)
	for _, paths := range [][]string{{parent}, {diskOf("lb")}, {folder + `\disks`}, {}} {
		refuse(b, b.v.FilesRemove, scripts.FilesRemoveParams{Folder: folder, Mark: mark, Paths: paths}, "IOException", "being used by another process")
	}
	wantFailure(t, b.tryUpload(parent, []byte("x")), "IOException", "being used by another process")
	must(b, b.v.VMStop, scripts.VMStopParams{ID: vm.ID, Mark: mark})
	if r := must(b, b.v.FilesRemove, scripts.FilesRemoveParams{Folder: folder, Mark: mark, Paths: []string{parent}}); !r.Removed {
		t.Error("it was not removed while the machine was off")
	}
}
