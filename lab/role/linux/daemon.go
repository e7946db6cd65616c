package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/guest"
	"l4lab/lab/role"
)

const (
	// answerLimit is how long a daemon that runs may take to answer: an
	// emulated machine has one slow processor for all that it does.
	answerLimit = 5 * time.Second
	// datagramLimit is how long an answer to a datagram is waited for.
	datagramLimit = time.Second

	lbPins = Pins + "/lb"
)

func (s *System) push(ctx context.Context, program, hash string) error {
	return s.Guest.Push(ctx, guest.File{Path: Program, Source: program, Hash: hash, Executable: true})
}

// EnsureAgent implements role.System. An agent of another kind is replaced; its
// programs and maps stay meanwhile and go on forwarding.
func (s *System) EnsureAgent(ctx context.Context, a role.Agent) error {
	have, err := s.links(ctx)
	if err != nil {
		return err
	}
	device, err := s.device(have)
	if err != nil {
		return err
	}
	if err := s.push(ctx, a.Program, a.Hash); err != nil {
		return err
	}
	own, _ := have.withAddress(s.Address)
	return s.ensureDaemon(ctx, unit{
		name: agentUnit, description: "l4lab: the load balancer's agent", needs: "/sys/fs/bpf",
		// SNAT takes its ports from 32768 on: the balancer's own connections keep off them.
		// Who logs in finds the agent with a plain `lbagent status`.
		prepare: [][]string{
			{"/bin/sh", "-c", "echo 1024 32767 >/proc/sys/net/ipv4/ip_local_port_range"},
			{"/bin/ln", "-sfn", Socket, usualSocket},
		},
		start: [][]string{{
			Program, "serve", "--device", device, "--address", a.Address.String(),
			"--socket", Socket, "--pin-dir", lbPins, "--state", Folder + "/services.json",
		}},
		record: record{Spec: a.Spec(), At: "unix " + Socket, Device: device},
	}, own.XDP == nil) // an agent that is started attaches its program again
}

// ensureDaemon has a daemon run as its unit says, and answer. One that runs and
// does not answer is replaced, and so is one that is stale.
func (s *System) ensureDaemon(ctx context.Context, u unit, stale bool) error {
	changed, err := s.ensureUnit(ctx, u)
	if err != nil {
		return err
	}
	if !changed && !stale {
		state, err := s.show(ctx, u.name)
		if err != nil {
			return err
		}
		if !state.ended() && s.answers(ctx, u.At) == nil {
			return nil
		}
	}
	if err := s.restart(ctx, u.name); err != nil {
		return err
	}
	return s.await(ctx, u)
}

// errEnded: a daemon ended instead of answering.
var errEnded = errors.New("it ended at once")

// await waits until a daemon that was just started answers. One that ended
// never will: its log says why.
func (s *System) await(ctx context.Context, u unit) error {
	err := guest.Await(ctx, s.Machine, guest.Requirement{
		Description: fmt.Sprintf("has %s answer at %s", u.name, u.At),
		Hint:        fmt.Sprintf("`journalctl -u %s` on the machine says more", u.name),
		Limit:       s.StartLimit,
		Pause:       100 * time.Millisecond,
		Check: func(ctx context.Context) error {
			err := s.answers(ctx, u.At)
			if err == nil {
				return nil
			}
			if state, showErr := s.show(ctx, u.name); showErr == nil && state.ended() {
				return fmt.Errorf("%w: %w (%s, %s)", guest.ErrNever, errEnded, state.active, state.sub)
			}
			return err
		},
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w; its last words:\n%s", err, s.lastWords(ctx, u.name))
}

// answers asks a daemon something small, whatever kind it is.
func (s *System) answers(ctx context.Context, at string) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	network, address, _ := strings.Cut(at, " ")
	switch network {
	case "unix":
		client := api.NewClient(func(ctx context.Context) (net.Conn, error) { return s.Guest.Dial(ctx, network, "", address) })
		_, err := client.Status(ctx)
		return err
	case "tcp":
		return role.AskPage(ctx, s.Guest.Dial, address, s.Machine)
	case "udp":
		return s.askUDP(ctx, address)
	}
	return s.errorf("nothing is known of how to ask at %q", at)
}

// askUDP sends one datagram to a page and waits for its answer.
func (s *System) askUDP(ctx context.Context, to string) error {
	conn, err := s.Guest.Dial(ctx, "udp", "", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(datagramLimit)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("whoami")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 512))
	return err
}
