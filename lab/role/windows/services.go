package windows

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/guest"
	"l4lab/lab/role"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

// EnsureAgent implements role.System.
func (m *Machine) EnsureAgent(ctx context.Context, a role.Agent) error {
	device, err := m.device(ctx)
	if err != nil {
		return err
	}
	service := guestscripts.ServiceEnsureParams{
		Name: agentService, Program: Program, Spec: a.Spec(),
		Arguments: []string{"serve", "--device", device, "--address", a.Address.String(), "--image", Folder + `\lb.sys`, "--profile", string(m.Profile)},
	}
	return m.ensureService(ctx, service, a.Program, a.Hash, m.agentAnswers)
}

// EnsureDecap implements role.System: the service attaches, pins and ends, at
// each start of the machine.
func (m *Machine) EnsureDecap(ctx context.Context, d role.Decap) error {
	if d.Hook != role.XDP {
		return m.errorf("Windows has no hook %s: take %s", d.Hook, role.XDP)
	}
	device, err := m.device(ctx)
	if err != nil {
		return err
	}
	service := guestscripts.ServiceEnsureParams{
		Name: decapService, Program: Program, Spec: d.Spec(),
		Arguments: []string{"decap", "attach", "--interface", device, "--address", d.Address.String(), "--balancer", d.Balancer.String(),
			"--hook", string(d.Hook), "--image", Folder + `\decap_xdp.sys`, "--pin-dir", decapPins},
	}
	return m.ensureService(ctx, service, d.Program, d.Hash, func(ctx context.Context) error {
		status, err := m.DecapStatus(ctx)
		if err == nil && !status.Attached {
			err = errors.New("it is not attached")
		}
		return err
	})
}

// DecapStatus implements role.System.
func (m *Machine) DecapStatus(ctx context.Context) (api.DecapStatus, error) {
	var out bytes.Buffer
	var status api.DecapStatus
	err := m.Run(ctx, guest.Command{Argv: []string{Program, "decap", "status", "--pin-dir", decapPins, "-o", "json"}, Stdout: &out})
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &status)
	}
	if err != nil {
		return status, m.errorf("ask the decapsulation program: %w", err)
	}
	return status, nil
}

// EnsurePage implements role.System.
func (m *Machine) EnsurePage(ctx context.Context, p role.Page) error {
	_, err := m.verbs.FirewallEnsure.Run(ctx, m.Runner, guestscripts.FirewallEnsureParams{Name: pageRule, TCP: numbers(p.TCP), UDP: numbers(p.UDP)})
	if err != nil {
		return m.errorf("open the page's ports in the firewall: %w", err)
	}
	if m.Page == topology.PageNative {
		return m.ensureIIS(ctx, p)
	}
	service := guestscripts.ServiceEnsureParams{
		Name: webService, Program: Program, Spec: p.Spec(),
		Arguments: []string{"web", "--name", p.Name, "--address", p.Address.String(), "--os", string(p.OS), "--tcp", listenOn(p.TCP), "--udp", listenOn(p.UDP)},
	}
	return m.ensureService(ctx, service, p.Program, p.Hash, func(ctx context.Context) error {
		if len(p.TCP) == 0 {
			return m.runs(ctx, webService)
		}
		return role.AskPage(ctx, m.Dial, netip.AddrPortFrom(p.Address, p.TCP[0]).String(), m.Machine)
	})
}

// ensureIIS has IIS serve the page. A service that does not answer keeps the
// spec where Observe finds it.
func (m *Machine) ensureIIS(ctx context.Context, p role.Page) error {
	whoami, err := json.Marshal(map[string]string{"name": p.Name, "address": p.Address.String(), "os": string(p.OS)})
	if err != nil {
		return err
	}
	page := fmt.Sprintf("<!DOCTYPE html><title>%s</title><h1>%s</h1><p>%s, %s</p>\n", p.Name, p.Name, p.Address, p.OS)
	_, err = m.verbs.IISEnsure.Run(ctx, m.Runner, guestscripts.IISEnsureParams{
		Page: encode([]byte(page)), Whoami: encode(whoami), Name: p.Name, Ports: numbers(p.TCP),
	})
	if err != nil {
		return m.errorf("have IIS serve the page: %w", err)
	}
	return m.WriteFile(ctx, iisRecord, []byte(p.Spec()))
}

// iisRecord keeps the spec of a page that IIS serves.
const iisRecord = Folder + `\page.spec`

// device returns the name of the machine's adapter.
func (m *Machine) device(ctx context.Context) (string, error) {
	f, err := m.Facts(ctx)
	if err != nil {
		return "", err
	}
	a, err := m.adapter(f)
	return a.Name, err
}

// ensureService pushes the program, has the service run as asked, and waits
// until it answers. A program is replaced only while nothing runs it.
func (m *Machine) ensureService(ctx context.Context, s guestscripts.ServiceEnsureParams, program, hash string, answers func(context.Context) error) error {
	if err := m.start(ctx, s, program, hash); err != nil {
		return err
	}
	err := guest.Await(ctx, m.Machine, guest.Requirement{
		Description: fmt.Sprintf("has %s answer", s.Name),
		Hint:        fmt.Sprintf(`%s\*.log on the machine and `+"`sc.exe query %s` say more", logs, s.Name),
		Limit:       m.StartLimit,
		Pause:       500 * time.Millisecond,
		Check: func(ctx context.Context) error {
			err := answers(ctx)
			if err == nil {
				return nil
			}
			if ended := m.ended(ctx, s.Name); ended != nil {
				return fmt.Errorf("%w: %w", guest.ErrNever, ended)
			}
			return err
		},
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w; its last words:\n%s", err, m.lastWords(ctx, s.Name))
}

func (m *Machine) start(ctx context.Context, s guestscripts.ServiceEnsureParams, program, hash string) error {
	m.Changing.Lock()
	defer m.Changing.Unlock()
	if err := m.release(ctx, hash); err != nil {
		return err
	}
	if err := m.push(ctx, program, hash); err != nil {
		return err
	}
	if _, err := m.verbs.ServiceEnsure.Run(ctx, m.Runner, s); err != nil {
		return m.errorf("have the service %s run: %w", s.Name, err)
	}
	return nil
}

// release ends the services that run another program: Windows lets nobody
// replace a program that runs. What they had attached stays attached.
func (m *Machine) release(ctx context.Context, hash string) error {
	have, err := m.verbs.FileProbe.Run(ctx, m.Runner, guestscripts.FileParams{Path: Program})
	if err != nil {
		return m.errorf("look at its program: %w", err)
	}
	if !have.Exists || strings.EqualFold(have.SHA256, hash) {
		return nil
	}
	for _, name := range []string{agentService, decapService, webService} {
		if err := m.removeService(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) removeService(ctx context.Context, name string) error {
	if _, err := m.verbs.ServiceRemove.Run(ctx, m.Runner, guestscripts.ServiceRemoveParams{Name: name}); err != nil {
		return m.errorf("remove the service %s: %w", name, err)
	}
	return nil
}

// ended says how a service ended by itself, nil when it has not.
func (m *Machine) ended(ctx context.Context, name string) error {
	s, found, err := m.service(ctx, name)
	if err != nil || !found || !strings.EqualFold(s.State, "Stopped") || s.ExitCode == 0 {
		return nil
	}
	return fmt.Errorf("it ended with exit code %d", s.ExitCode)
}

func (m *Machine) runs(ctx context.Context, name string) error {
	s, found, err := m.service(ctx, name)
	if err == nil && (!found || !strings.EqualFold(s.State, "Running")) {
		err = fmt.Errorf("%s is %q", name, s.State)
	}
	return err
}

func (m *Machine) service(ctx context.Context, name string) (guestscripts.ServiceFacts, bool, error) {
	f, err := m.Facts(ctx)
	for _, s := range f.Services {
		if s.Name == name {
			return s, true, err
		}
	}
	return guestscripts.ServiceFacts{}, false, err
}

// Logs opens what the machine's daemons wrote.
func (m *Machine) Logs(ctx context.Context) (map[string]io.ReadCloser, error) {
	return role.LogFiles(ctx, m)
}

// lastWords returns the end of a service's log.
func (m *Machine) lastWords(ctx context.Context, service string) string {
	const limit = 2000
	f, err := m.Pull(ctx, strings.TrimPrefix(service, "l4lab-")+".log")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	data, _ := io.ReadAll(f)
	return strings.TrimSpace(string(data[max(0, len(data)-limit):]))
}

func (m *Machine) agentAnswers(ctx context.Context) error {
	client := api.NewClient(func(ctx context.Context) (net.Conn, error) { return m.Dial(ctx, "unix", "", "agent.sock") })
	_, err := client.Status(ctx)
	return err
}

// Remove implements role.System.
func (m *Machine) Remove(ctx context.Context, subject role.Subject) error {
	switch subject {
	case role.SubjectAgent:
		if err := m.removeService(ctx, agentService); err != nil {
			return err
		}
		return m.ifProgram(ctx, "unload")
	case role.SubjectDecap:
		if err := m.removeService(ctx, decapService); err != nil {
			return err
		}
		return m.ifProgram(ctx, "decap", "detach", "--pin-dir", decapPins)
	case role.SubjectPage:
		if _, err := m.verbs.FileRemove.Run(ctx, m.Runner, guestscripts.FileParams{Path: iisRecord}); err != nil {
			return m.errorf("forget the page: %w", err)
		}
		return m.removeService(ctx, webService)
	}
	return m.errorf("nothing known to remove by the name %q", subject)
}

// ifProgram runs lbagent where it is: where it is not, it has left nothing.
func (m *Machine) ifProgram(ctx context.Context, args ...string) error {
	have, err := m.verbs.FileProbe.Run(ctx, m.Runner, guestscripts.FileParams{Path: Program})
	if err != nil {
		return m.errorf("look at its program: %w", err)
	}
	if !have.Exists {
		return nil
	}
	return m.Run(ctx, guest.Command{Argv: append([]string{Program}, args...)})
}

func listenOn(ports []uint16) string {
	s := make([]string, len(ports))
	for i, p := range ports {
		s[i] = fmt.Sprintf(":%d", p)
	}
	return strings.Join(s, ",")
}

func numbers(ports []uint16) []int {
	list := make([]int, len(ports))
	for i, p := range ports {
		list[i] = int(p)
	}
	return list
}

func encode(data []byte) string { return base64.StdEncoding.EncodeToString(data) }
