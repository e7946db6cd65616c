package hvsim

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
	"l4lab/lab/provider/hyperv/scripts"
)

// program writes a shell script that stands in for lbagent.
func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lbagent")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

const agentPath = folder + `\bin\lbagent.exe`

func execParams(arguments ...string) scripts.HostExecParams {
	return scripts.HostExecParams{Program: agentPath, Arguments: arguments}
}

func TestAProgramOfTheHostHasItsArgumentsStreamsAndExitCode(t *testing.T) {
	b := newBench(t, Options{Program: program(t, `for a in "$@"; do echo "<$a>"; done; cat; echo oops >&2; exit 7`)})
	b.upload(agentPath, []byte("MZ"))
	hostile := []string{"", "a b", `"q"`, "$(reboot)", "`x`", `back\`, "é…", "'"}
	p := execParams(hostile...)
	p.Stdin = true
	var out, errOut bytes.Buffer
	var r scripts.ExecResult
	in := strings.Repeat("0123456789", 20_000)
	err := b.r.Run(t.Context(), powershell.Call{Script: b.v.HostExec.Script, Input: p, Stdin: strings.NewReader(in), Stdout: &out, Stderr: &errOut, Result: &r})
	if err != nil {
		t.Fatal(err)
	}
	want := "<" + strings.Join(hostile, ">\n<") + ">\n" + in
	if r.ExitCode != 7 || out.String() != want || errOut.String() != "oops\n" {
		t.Errorf("got exit code %d, %d bytes on stdout (want %d), %q on stderr", r.ExitCode, out.Len(), len(want), errOut.String())
	}
}

func TestProgramsThatCannotBeRunAreRefused(t *testing.T) {
	b := newBench(t, Options{Program: program(t, "exit 0")})
	refuse(b, b.v.HostExec, execParams(), "notFound")
	b.upload(folder+`\bin\other.exe`, []byte("MZ"))
	b.upload(`C:\lbagent.exe`, []byte("MZ"))
	p := execParams()
	p.Program = folder + `\bin\other.exe`
	refuse(b, b.v.HostExec, p, "ApplicationFailedException", "simulated")
	p.Program = `C:\Windows\System32\other.exe`
	refuse(b, b.v.HostExec, p, "notFound")
	p.Program = `bin\other.exe`
	refuse(b, b.v.HostExec, p, "notFound")
	p.Program = "nslookup"
	refuse(b, b.v.HostExec, p, "notFound", "simulated", "nslookup", "curl.exe")
	p.Program = "c*l"
	refuse(b, b.v.HostExec, p, "notFound")
	p.Program = folder + `\bin`
	refuse(b, b.v.HostExec, p, "notFound")
}

func TestProgramsRunByNameAndFromAnywhere(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skipf("left out: %v", err)
	}
	b := newBench(t, Options{Program: program(t, "echo agent")})
	b.upload(`C:\Tools\lbagent.exe`, []byte("MZ"))
	for name, want := range map[string]string{"curl": "curl ", "CURL.EXE": "curl ", `C:\windows\system32\Curl.exe`: "curl ", `C:\Tools\lbagent.exe`: "agent\n"} {
		var out bytes.Buffer
		p := scripts.HostExecParams{Program: name, Arguments: []string{"--version"}}
		if err := b.r.Run(t.Context(), powershell.Call{Script: b.v.HostExec.Script, Input: p, Stdout: &out}); err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("%s prints %q, %v; want %q", name, out.String(), err, want)
		}
	}
}

func TestAProgramThatRunsCannotBeReplacedAndEndsWithItsCall(t *testing.T) {
	b := newBench(t, Options{Program: program(t, "echo ready; exec sleep 600")})
	b.lay()
	b.upload(agentPath, []byte("MZ"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := &firstWrite{seen: make(chan struct{})}
	ended := make(chan int)
	go func() {
		in := strings.NewReader(callText(t, b.v.HostExec.Script, execParams()))
		ended <- b.h.run(ctx, wsman.Process{CommandLine: powershell.CommandLine(), Stdin: in, Stdout: ready, Stderr: io.Discard})
	}()
	<-ready.seen
	wantFailure(t, b.tryUpload(agentPath, []byte("MZ2")), "IOException", "used by another process")
	refuse(b, b.v.FilesRemove, scripts.FilesRemoveParams{Folder: folder, Mark: mark, Paths: nil}, "IOException", "used by another process")
	cancel()
	<-ended
	b.upload(agentPath, []byte("MZ2"))
}

// firstWrite tells when something was written.
type firstWrite struct {
	seen chan struct{}
	once bool
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if !w.once {
		w.once = true
		close(w.seen)
	}
	return len(p), nil
}
