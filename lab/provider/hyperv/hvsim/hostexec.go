package hvsim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"l4lab/lab/provider/hyperv/scripts"
)

const (
	// agentProgram has a stand-in here: its Linux build.
	agentProgram = "lbagent.exe"
	// curlProgram comes with Windows (Server 2019, Windows 10 1803) in systemFolder
	// and has one, too: this machine's curl.
	curlProgram  = "curl.exe"
	systemFolder = `C:\Windows\System32\`
)

// Curl returns the path of this machine's curl, which stands in for curl.exe.
func Curl() (string, error) {
	path, err := exec.LookPath("curl")
	if err != nil {
		return "", fmt.Errorf("%s cannot be run: this host is simulated, and the machine that it runs on has no curl: %w", curlProgram, err)
	}
	return path, nil
}

func (h *Host) hostExec(ctx context.Context, p scripts.HostExecParams, s streams) (scripts.ExecResult, error) {
	real, err := h.standIn(p.Program)
	if err != nil {
		return scripts.ExecResult{}, err
	}
	defer h.executing(p.Program)()
	stdin := s.stdin
	if !p.Stdin {
		stdin = strings.NewReader("")
	}
	code, err := h.guests.HostExec(ctx, real, p.Arguments, stdin, s.stdout, s.stderr)
	return scripts.ExecResult{ExitCode: code}, err
}

// standIn returns the real path of what runs for a program of the host.
func (h *Host) standIn(program string) (string, error) {
	named := !strings.ContainsAny(program, `\/:`)
	if name := strings.ToLower(program); named && (name == curlProgram || name+".exe" == curlProgram) || strings.EqualFold(program, systemFolder+curlProgram) {
		path, err := Curl()
		if err != nil {
			return "", fail("ApplicationFailedException", program, "%v", err)
		}
		return path, nil
	}
	if named {
		return "", fail(scripts.NotFound, program, "there is no program %s in the PATH of this host, which is simulated and has %s there alone", program, curlProgram)
	}
	real, err := h.drives.real(program)
	if err != nil {
		return "", fail(scripts.NotFound, program, "there is no such program on the host: %v", err)
	}
	info, err := os.Stat(real)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !info.Mode().IsRegular():
		return "", fail(scripts.NotFound, program, "there is no such program on the host")
	case err != nil:
		return "", err
	case !strings.EqualFold(filepath.Base(real), agentProgram):
		return "", fail("ApplicationFailedException", program, "%s cannot be run: this host is simulated and runs %s and %s alone", program, agentProgram, curlProgram)
	case h.o.Program != "":
		return h.o.Program, nil
	}
	return real, nil
}

// executing keeps a program's file from being changed until it ends.
func (h *Host) executing(path string) (done func()) {
	h.store.Lock()
	defer h.store.Unlock()
	key := strings.ToLower(path)
	h.programs[key]++
	return func() {
		h.store.Lock()
		defer h.store.Unlock()
		if h.programs[key]--; h.programs[key] == 0 {
			delete(h.programs, key)
		}
	}
}
