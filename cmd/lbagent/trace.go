package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
)

func newTraceCommand() *cobra.Command {
	var (
		packet   api.TracePacket
		from, to string
		syn      bool
	)
	cmd := &cobra.Command{
		Use:   "trace --proto tcp --from ADDRESS:PORT --to ADDRESS:PORT",
		Short: "Say what the data path would do with a packet, and why",
		Long: `Say what the data path would do with a packet, and why, from its maps. Nothing is sent and nothing
changed. --to is a VIP, or, to follow a reply, the balancer's own address and the port of its SNAT.
Of a flow that is not known the packet is a SYN, else an ACK, if neither --syn nor --flags says otherwise.`,
		Example: `  lbagent trace --from 20.1.1.100:40000 --to 40.1.1.1:80
  lbagent trace --proto udp --from 20.1.1.100:5353 --to 40.1.1.1:53 --length 1490`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&packet.Protocol, "proto", "tcp", "tcp or udp")
	flags.StringVar(&from, "from", "", "source of the packet")
	flags.StringVar(&to, "to", "", "destination of the packet")
	flags.BoolVar(&syn, "syn", true, "the packet is a SYN; false: an ACK (default true where the flow is not known)")
	flags.Lookup("syn").DefValue = "false" // which the help leaves out: the default depends
	flags.StringVar(&packet.Flags, "flags", "", "TCP flags, of the letters S, A, F and R, instead of --syn")
	flags.IntVar(&packet.Length, "length", 0, "bytes of IP (default the fewest)")
	flags.BoolVar(&packet.MayFragment, "may-fragment", false, "an IPv4 packet without DF")
	require(cmd, "from", "to")
	return clientCommand(cmd, func(ctx context.Context, agent api.Agent, c *call) error {
		var err error
		if packet.From, err = parseEndpoint("--from", from); err != nil {
			return err
		}
		if packet.To, err = parseEndpoint("--to", to); err != nil {
			return err
		}
		if flags.Changed("syn") && packet.Flags != "" {
			return usageError{errors.New("--syn and --flags exclude one another")}
		}
		if flags.Changed("syn") && packet.Protocol != "tcp" {
			return usageError{errors.New("--syn is TCP's")}
		}
		if flags.Changed("syn") {
			packet.Flags = map[bool]string{true: "S", false: "A"}[syn]
		}
		trace, err := agent.Trace(ctx, packet)
		if err != nil {
			return err
		}
		return c.write(trace, func(t *table) { traceRows(t, trace) })
	})
}

func traceRows(t *table, trace api.Trace) {
	p := trace.Packet
	what := p.Protocol
	if p.Flags != "" {
		what += " " + p.Flags
	}
	t.row(fmt.Sprintf("%s, %d bytes, from %s to %s", what, p.Length, p.From, p.To))
	for i, step := range trace.Steps {
		t.row(fmt.Sprintf("%3d. %s", i+1, step))
	}
	verdict := string(trace.Verdict)
	switch trace.Verdict {
	case api.Dropped:
		verdict += ": " + trace.Reason
	case api.Forwarded:
		to := trace.Client
		if !to.IsValid() {
			to = trace.Backend.Address
		}
		verdict += fmt.Sprintf(" to %s by %s", to, trace.Mode)
		if trace.Opens {
			verdict += ", a new flow"
		}
	}
	t.row(verdict)
	if trace.TableUnread {
		t.row("note: by the Maglev table as the agent wrote it: it would need CAP_SYS_ADMIN to read the map's")
	}
}
