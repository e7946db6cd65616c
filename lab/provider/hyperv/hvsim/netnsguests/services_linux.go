package netnsguests

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"l4lab/lab/provider/hyperv/hvsim/netnsguests/guestinit"
	"l4lab/lab/role/windows/guestscripts"
)

const (
	// iisService is what stands in for IIS: lbagent's own web server.
	iisService = "w3svc"
	// maxOutput is what the exec verb brings back at most.
	maxOutput = 16 << 20
)

func unitName(service string) string { return service + ".service" }

// serviceState asks how a service is; one that cannot be asked for is stopped.
func (m *guest) serviceState(ctx context.Context, name string) guestinit.ServiceState {
	reply, err := m.ask(ctx, guestinit.Request{State: unitName(name)})
	if err != nil || reply.Service == nil {
		return guestinit.ServiceState{Active: "inactive"}
	}
	return *reply.Service
}

// startService starts a service of the registry.
func (m *guest) startService(ctx context.Context, w *windows, name string) error {
	s := w.Services[name]
	argv, err := m.agentCommand(w, s.Program, s.Arguments)
	if err != nil {
		return err
	}
	log, err := m.inside(`C:\ProgramData\lbagent\` + serviceLog(s.Arguments))
	if err != nil {
		return err
	}
	reply, err := m.ask(ctx, guestinit.Request{Start: &guestinit.Unit{
		Name: unitName(name), Type: "simple", Start: []guestinit.Line{{Argv: argv}}, Restart: "on-failure", Pause: time.Second, Log: log,
	}})
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	return err
}

// serviceLog is where lbagent.exe writes as a service.
func serviceLog(arguments []string) string {
	if len(arguments) == 0 || arguments[0] == "serve" {
		return "lbagent.log"
	}
	return "lbagent-" + arguments[0] + ".log"
}

func (m *guest) stopService(ctx context.Context, name string) error {
	reply, err := m.ask(ctx, guestinit.Request{Stop: unitName(name)})
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	return err
}

func serviceEnsure(ctx context.Context, m *guest, w *windows, p guestscripts.ServiceEnsureParams) (guestscripts.Changed, error) {
	if err := m.isAgent(p.Program); err != nil {
		return guestscripts.Changed{}, err
	}
	want := windowsService{p.Program, slices.Clone(p.Arguments), p.Spec}
	have, there := w.Services[p.Name]
	var what []string
	switch {
	case !there:
		what = append(what, "service")
	case have.Program != want.Program || have.Spec != want.Spec || !slices.Equal(have.Arguments, want.Arguments):
		if err := m.stopService(ctx, p.Name); err != nil {
			return guestscripts.Changed{}, err
		}
		what = append(what, "command")
	}
	w.Services[p.Name] = want
	if len(what) > 0 {
		if err := m.saveRegistry(); err != nil {
			return guestscripts.Changed{}, err
		}
	}
	if m.serviceState(ctx, p.Name).Active != "active" {
		if err := m.startService(ctx, w, p.Name); err != nil {
			return guestscripts.Changed{}, fmt.Errorf("service %s failed to start: %w", p.Name, err)
		}
		what = append(what, "started")
	}
	return m.remembered(what)
}

func serviceRemove(ctx context.Context, m *guest, w *windows, p guestscripts.ServiceRemoveParams) (guestscripts.Changed, error) {
	if _, there := w.Services[p.Name]; !there {
		return m.remembered(nil)
	}
	if err := m.stopService(ctx, p.Name); err != nil {
		return guestscripts.Changed{}, err
	}
	delete(w.Services, p.Name)
	return m.remembered([]string{"service removed"})
}

// iisEnsure has lbagent's web server stand in for IIS: the same answers to
// /whoami and the same header, not the page itself.
func iisEnsure(ctx context.Context, m *guest, w *windows, p guestscripts.IISEnsureParams) (guestscripts.RebootResult, error) {
	var r guestscripts.RebootResult
	if len(p.Ports) == 0 {
		return r, failure(guestscripts.InstallFailed, "Web-Server", "a site needs a port")
	}
	ports := make([]string, len(p.Ports))
	for i, port := range p.Ports {
		ports[i] = fmt.Sprintf(":%d", port)
	}
	argv := []string{agentMount, "web", "--name", p.Name, "--os", "windows", "--tcp", strings.Join(ports, ",")}
	if w.Address.IsValid() {
		argv = append(argv, "--address", w.Address.Addr().String())
	}
	if err := m.stopService(ctx, iisService); err != nil {
		return r, err
	}
	reply, err := m.ask(ctx, guestinit.Request{Start: &guestinit.Unit{
		Name: unitName(iisService), Type: "simple", Start: []guestinit.Line{{Argv: argv}}, Restart: "on-failure", Pause: time.Second,
	}})
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	r.Changed = guestscripts.Changed{Changed: true, What: []string{"site l4lab (lbagent stands in for IIS)"}}
	return r, err
}

// isAgent refuses programs that are not there, and all but lbagent.exe.
func (m *guest) isAgent(program string) error {
	real, err := m.real(program)
	if err != nil || !isFile(real) {
		return failure(guestscripts.NotFound, program, "there is no such program")
	}
	if !strings.EqualFold(filepath.Base(real), agentProgram) {
		return fmt.Errorf("%s cannot be run: this guest is simulated and runs %s alone", program, agentProgram)
	}
	_, err = m.guests.standIn(real)
	return err
}

func execProgram(ctx context.Context, m *guest, w *windows, p guestscripts.ExecParams) (guestscripts.ExecResult, error) {
	var r guestscripts.ExecResult
	if err := m.isAgent(p.Program); err != nil {
		return r, err
	}
	stdin, err := base64.StdEncoding.DecodeString(p.Stdin)
	if err != nil {
		return r, fmt.Errorf("the standard input is no base64: %w", err)
	}
	w.mu.Lock()
	argv, err := m.agentCommand(w, p.Program, p.Arguments)
	w.mu.Unlock()
	if err != nil {
		return r, err
	}
	limit := time.Minute
	if p.Seconds > 0 {
		limit = time.Duration(p.Seconds) * time.Second
	}
	run, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	code, out, words, err := m.run(run, argv, stdin)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		r.TimedOut, code, err = true, -1, nil
	}
	r.ExitCode = code
	r.Stdout, r.Stderr = base64.StdEncoding.EncodeToString(out), base64.StdEncoding.EncodeToString(words)
	return r, err
}

// run runs a program in the machine and returns what it printed.
func (m *guest) run(ctx context.Context, argv []string, stdin []byte) (code int, out, words []byte, err error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var pipes [3][2]*os.File
	for i := range pipes {
		r, w, err := os.Pipe()
		if err != nil {
			return -1, nil, nil, err
		}
		files = append(files, r, w)
		pipes[i] = [2]*os.File{r, w}
	}
	var streams sync.WaitGroup
	streams.Go(func() {
		_, _ = pipes[0][1].Write(stdin) // it may end without reading
		pipes[0][1].Close()
	})
	for i, into := range []*[]byte{&out, &words} {
		streams.Go(func() {
			*into, _ = io.ReadAll(io.LimitReader(pipes[i+1][0], maxOutput))
			_, _ = io.Copy(io.Discard, pipes[i+1][0])
		})
	}
	reply, err := m.ask(ctx, guestinit.Request{Exec: &guestinit.Exec{Argv: argv, Dir: "/"}}, pipes[0][0], pipes[1][1], pipes[2][1])
	for _, f := range []*os.File{pipes[0][0], pipes[1][1], pipes[2][1]} {
		f.Close()
	}
	streams.Wait()
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	return reply.Code, out, words, err
}
