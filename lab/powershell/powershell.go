// Package powershell runs scripts on a Windows machine: one script a call, its
// parameters and its result as data. A Runner is one way to reach a machine:
// WinRM (Connect), a process on this one (Local), or PowerShell Direct, which
// the Hyper-V provider makes of its host's Runner.
//
//	r, err := powershell.Connect(ctx, powershell.Endpoint{Host: "hv1", CAFile: "ca.pem", User: "lab", Password: secret})
//	got, err := scripts.SwitchEnsure.Run(ctx, r, scripts.SwitchEnsureParams{Name: "l4lab", Mark: mark})
//
// No text of a script is ever put together from input. What runs on the
// machine is always the same small bootstrap, as -EncodedCommand; it reads from
// its standard input, a line each: a nonce, the script and the script's
// parameters as a JSON object (the last two in base64 of UTF-8), runs the script with these
// parameters, and writes what it returned as one JSON envelope between two
// lines that bear the nonce. Command lines are limited to 8,191 characters
// (facts of Windows), standard input is not, and neither shows in a list of processes.
package powershell

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// Script is a PowerShell script with a param() block.
type Script struct {
	// Name is the file's without its extension: "switch-ensure".
	Name string
	// Text is the file's content.
	Text string
	// Repeatable says that running it again is safe when it is not known
	// whether it ran. Others are never tried again.
	Repeatable bool
}

// Hash returns the SHA-256 of the script's text in hex, by which the simulated
// host knows it.
func (s Script) Hash() string {
	sum := sha256.Sum256([]byte(s.Text))
	return hex.EncodeToString(sum[:])
}

// Call is one run of a script.
type Call struct {
	Script Script
	// Input is marshalled to a JSON object; its keys are the script's parameters.
	Input any
	// Result, when not nil, is where the envelope's result is unmarshalled to.
	Result any
	// Stdin reaches the script as lines of base64, 48 KiB of data each at most,
	// and an empty line at its end. Nil: the script reads none.
	Stdin io.Reader
	// Stdout and Stderr get what the script writes as lines "1:BASE64" and
	// "2:BASE64" before its envelope. Nil: such lines are discarded.
	Stdout, Stderr io.Writer
}

// Runner runs scripts on one machine. Its methods may be called side by side.
type Runner interface {
	// Run runs a script to its end. A script that ran and failed returns a
	// *ScriptError; the other errors match one of the Err values below, or the
	// context's. Cancelling the context ends the script on the machine.
	Run(ctx context.Context, c Call) error
	// Close ends what is kept on the machine, the shell first of all.
	Close(ctx context.Context) error
}

// Errors that a caller may want to tell apart.
var (
	// ErrAuth: the machine refused the credentials.
	ErrAuth = errors.New("credentials were refused")
	// ErrUnreachable: no answer came, or not one of WinRM's; also a certificate
	// that is not the pinned one.
	ErrUnreachable = errors.New("machine cannot be reached")
	// ErrQuota: a limit of the machine's was hit (shells, processes, memory),
	// and a new shell did not help.
	ErrQuota = errors.New("a quota of the machine is used up")
	// ErrTimeout: the machine took too long.
	ErrTimeout = errors.New("no answer in time")
	// ErrProtocol: what came back is no envelope: a truncated answer, text of
	// another program.
	ErrProtocol = errors.New("answer cannot be understood")
)

// ScriptError says that a script ran and failed.
type ScriptError struct {
	// Script is its name.
	Script string
	// Code is what the script says of the kind: "foreign", "notFound"; for an
	// error of a cmdlet it is PowerShell's own id.
	Code string
	// Message is plain text, Target what it is about: a name or a path.
	Message, Target string
}

func (e *ScriptError) Error() string {
	s := e.Script + ": " + e.Message
	if e.Target != "" {
		s += fmt.Sprintf(" (%s)", e.Target)
	}
	return s
}

// Is matches another *ScriptError of the same code: errors.Is(err, &ScriptError{Code: "notFound"}).
func (e *ScriptError) Is(target error) bool {
	t, ok := target.(*ScriptError)
	return ok && t.Code == e.Code && (t.Script == "" || t.Script == e.Script)
}
