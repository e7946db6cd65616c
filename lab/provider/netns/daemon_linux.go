package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"l4lab/agent/api"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/role"
)

const (
	// startLimit bounds how long a daemon may take until it answers.
	startLimit = 10 * time.Second
	// answerLimit is how long a daemon that runs may take to answer.
	answerLimit = 2 * time.Second
	// stopPatience is how long a daemon may take to end by itself.
	stopPatience = 3 * time.Second
)

// EnsureAgent implements role.System. An agent of another kind is ended first;
// its programs and maps stay and go on forwarding, and the next one takes them over.
func (s system) EnsureAgent(ctx context.Context, a role.Agent) error {
	if err := s.push(ctx, a.Program, a.Hash); err != nil {
		return err
	}
	if err := os.MkdirAll(s.pins, 0o700); err != nil {
		return fmt.Errorf("%s: make the folder for pins: %w", s.machine, err)
	}
	if err := s.stopDetached(ctx); err != nil {
		return err
	}
	argv := []string{
		filepath.Join(s.dir, programName), "serve", "--device", fabric.InterfaceName, "--address", a.Address.String(),
		"--socket", s.socket(), "--pin-dir", filepath.Join(s.pins, "lb"), "--state", filepath.Join(s.dir, "services.json"),
	}
	return s.ensureDaemon(ctx, daemon{Name: "agent", Spec: a.Spec(), Argv: argv, At: atAgent})
}

// stopDetached ends an agent whose program is no longer on the interface, so
// that the next one attaches it again.
func (s system) stopDetached(ctx context.Context) error {
	return s.withLink(fabric.InterfaceName, func(_ *netlink.Handle, link netlink.Link) error {
		if fabric.HasXDP(link) {
			return nil
		}
		return s.stopDaemon(ctx, "agent")
	})
}

func (s system) socket() string { return socketIn(s.dir) }

// socketIn is where the agent of a node listens.
func socketIn(dir string) string { return filepath.Join(dir, "agent.sock") }

// EnsurePage implements role.System.
func (s system) EnsurePage(ctx context.Context, p role.Page) error {
	if err := s.push(ctx, p.Program, p.Hash); err != nil {
		return err
	}
	argv := []string{
		filepath.Join(s.dir, programName), "web", "--name", p.Name, "--address", p.Address.String(), "--os", string(p.OS),
		"--tcp", listenOn(p.TCP), "--udp", listenOn(p.UDP),
	}
	d := daemon{Name: "web", Spec: p.Spec(), Argv: argv}
	if len(p.TCP) > 0 {
		d.At = "tcp " + netip.AddrPortFrom(p.Address, p.TCP[0]).String()
	} else {
		d.At = "udp " + netip.AddrPortFrom(p.Address, p.UDP[0]).String()
	}
	return s.ensureDaemon(ctx, d)
}

// atAgent is where an agent answers: its socket in the node's folder.
const atAgent = "unix agent.sock"

// ask asks a daemon something small, whatever kind it is.
func (s system) ask(ctx context.Context, d daemon) error {
	network, address, _ := strings.Cut(d.At, " ")
	switch network {
	case "unix":
		client := api.NewClient(func(ctx context.Context) (net.Conn, error) { return s.Dial(ctx, network, "", address) })
		_, err := client.Status(ctx)
		return err
	case "tcp":
		return role.AskPage(ctx, s.Dial, address, s.machine)
	case "udp":
		return s.askUDP(ctx, address)
	}
	return fmt.Errorf("%s has no place to answer at: %q", d.Name, d.At)
}

// askUDP sends one datagram to a page and waits for its answer.
func (s system) askUDP(ctx context.Context, to string) error {
	conn, err := s.Dial(ctx, "udp", "", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("whoami")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 512))
	return err
}

func listenOn(ports []uint16) string {
	s := make([]string, len(ports))
	for i, p := range ports {
		s[i] = fmt.Sprintf(":%d", p)
	}
	return strings.Join(s, ",")
}

// ensureDaemon has a daemon of this spec run and answer. One that runs and does
// not answer, a stopped one say, is replaced.
func (s system) ensureDaemon(ctx context.Context, want daemon) error {
	d, err := readDaemon(s.dir, want.Name)
	switch {
	case err == nil && d.Alive() && d.Spec == want.Spec && s.answers(ctx, d):
		return nil
	case err == nil:
		if err := d.stop(ctx, s.dir, stopPatience); err != nil {
			return fmt.Errorf("%s: %w", s.machine, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	if err := endStray(ctx, s.dir, want.Name, want.Argv); err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	err = s.enter(func(ns fabric.Namespace) error {
		d, err = startDaemon(ns, s.dir, want)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	return s.await(ctx, d)
}

// answers says whether a running daemon answers within answerLimit.
func (s system) answers(ctx context.Context, d daemon) bool {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	return s.ask(ctx, d) == nil
}

// await waits until a daemon that was just started answers. One that ended
// never will: its log says why.
func (s system) await(ctx context.Context, d daemon) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("no answer within %s", startLimit))
	defer cancel()
	pause := time.Millisecond
	for {
		err := s.ask(ctx, d)
		if err == nil {
			return nil
		}
		if !d.Alive() {
			return fmt.Errorf("%s: %s ended at once; its last words:\n%s", s.machine, d.Name, d.lastWords(s.dir))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for %s (pid %d) to answer: %w; last: %v; see %s", s.machine, d.Name, d.PID, context.Cause(ctx), err, logFile(s.dir, d.Name))
		case <-time.After(pause):
			pause = min(pause*3/2, 50*time.Millisecond)
		}
	}
}

func (s system) stopDaemon(ctx context.Context, name string) error {
	d, err := readDaemon(s.dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = d.stop(ctx, s.dir, stopPatience)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	return nil
}

func (s system) observeDaemon(ctx context.Context, name string) role.Present {
	d, err := readDaemon(s.dir, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return role.Present{}
	case err != nil:
		return role.Present{Fault: err.Error()}
	case !d.Alive():
		return role.Present{PID: d.PID, Fault: "exited"}
	case !s.answers(ctx, d):
		return role.Present{Spec: d.Spec, PID: d.PID, Fault: "does not answer"}
	}
	return role.Present{Spec: d.Spec, PID: d.PID}
}
