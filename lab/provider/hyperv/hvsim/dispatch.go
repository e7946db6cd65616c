package hvsim

import (
	"context"
	"fmt"
	"io"
	"strings"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
)

// run is what WinRM starts for a command. The one program that does something
// is powershell.exe with exactly the bootstrap that labctl sends to a real host.
func (h *Host) run(ctx context.Context, p wsman.Process) int {
	line := strings.TrimSpace(strings.Join(append([]string{p.CommandLine}, p.Arguments...), " "))
	if line != powershell.CommandLine() {
		return h.cmd(line, p.Stdout, p.Stderr)
	}
	q, err := powershell.ReadRequest(p.Stdin)
	if err != nil {
		h.log.Warn("a call of the bootstrap that is none", "error", err)
		fmt.Fprintf(p.Stderr, "%v\r\n", err)
		return 1
	}
	reply := powershell.NewReply(p.Stdout, q)
	result, err := h.answer(ctx, q, streams{q.Stdin, reply.Stdout(), reply.Stderr()})
	if err := reply.End(result, err); err != nil {
		h.log.Warn("an answer that could not be sent", "error", err)
		return 1
	}
	return 0
}

// answer runs the verb whose script arrived. Its error is a *ScriptError.
func (h *Host) answer(ctx context.Context, q powershell.Request, s streams) (any, error) {
	contract, known := h.contracts[q.Script.Hash()]
	if !known {
		h.log.Warn("unknown script", "sha256", q.Script.Hash())
		return nil, &powershell.ScriptError{Code: idUnknownScript, Message: fmt.Sprintf(
			"this host is simulated and knows no script of SHA-256 %s", q.Script.Hash())}
	}
	result, err := h.call(ctx, contract, q, s)
	if err == nil {
		h.log.Info("verb", "name", contract.Name)
		return result, nil
	}
	f := failureOf(err)
	// A message may quote what a program or a guest said; input it never quotes.
	h.log.Info("verb failed", "name", contract.Name, "code", f.code, "message", f.message, "target", f.target)
	return nil, &powershell.ScriptError{Script: contract.Name, Code: f.code, Message: f.message, Target: f.target}
}

func (h *Host) call(ctx context.Context, contract powershell.Contract, q powershell.Request, s streams) (any, error) {
	if err := h.permit(contract.Name); err != nil {
		return nil, err
	}
	result, err := h.verbs[contract.Name](h, ctx, q.Input, s)
	if err != nil {
		return nil, err
	}
	return conform(result, contract.Result)
}

// permit refuses what a host without Hyper-V, or a user without rights, cannot do.
func (h *Host) permit(verb string) error {
	if !needsHyperV(verb) {
		return nil
	}
	if h.o.Profile.NoHyperV {
		return fail(idNoCommand, "Get-VM", "The term 'Get-VM' is not recognized as the name of a cmdlet, function, script file, or operable program. "+
			"Check the spelling of the name, or if a path was included, verify that the path is correct and try again.")
	}
	if h.o.Profile.NotElevated {
		return fail(idAccessDenied, "", "You do not have the required permission to complete this task. "+
			"Contact the administrator of the authorization policy for the computer '%s'.", computerName)
	}
	return nil
}

// computerName is the host's.
const computerName = "HVSIM"

// cmd answers what is not the bootstrap, as cmd.exe does: enough for a client
// of WinRM that looks whether it was let in, and nothing that runs a program.
func (h *Host) cmd(line string, stdout, stderr io.Writer) int {
	words := strings.Fields(line)
	if len(words) > 2 && strings.EqualFold(strings.TrimSuffix(strings.ToLower(words[0]), ".exe"), "cmd") && strings.EqualFold(words[1], "/c") {
		words = words[2:]
	}
	if len(words) == 0 {
		return 0
	}
	switch strings.TrimSuffix(strings.ToLower(words[0]), ".exe") {
	case "echo":
		fmt.Fprintf(stdout, "%s\r\n", strings.Join(words[1:], " "))
	case "hostname":
		fmt.Fprintf(stdout, "%s\r\n", computerName)
	case "ver":
		fmt.Fprintf(stdout, "\r\nMicrosoft Windows [Version %s] (simulated)\r\n", h.o.Profile.Version)
	case "ipconfig":
		h.ipconfig(stdout)
	default:
		h.log.Warn("unknown program", "program", words[0])
		fmt.Fprintf(stderr, "'%s' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n", words[0])
		return 1
	}
	return 0
}

// ipconfig lists the host's adapters on its switches.
func (h *Host) ipconfig(out io.Writer) {
	h.store.Lock()
	defer h.store.Unlock()
	fmt.Fprint(out, "\r\nWindows IP Configuration (simulated)\r\n")
	for _, s := range h.store.Switches {
		fmt.Fprintf(out, "\r\nEthernet adapter vEthernet (%s):\r\n\r\n", s.Name)
		for _, a := range s.Addresses {
			fmt.Fprintf(out, "   IPv4 Address. . . . . . . . . . . : %s\r\n", a)
		}
	}
}

// streams are those of a call: its data lines, decoded.
type streams struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}
