package powershell

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/masterzen/winrm"
	"github.com/masterzen/winrm/soap"
)

// This file alone knows masterzen/winrm. Its requests are used; its Client,
// Shell and Command are not, since they lose what callers must tell apart:
// errors are bare strings, a fault of Send becomes io.ErrShortWrite, and no
// request can be cancelled.

// service is the operations of a machine's WinRM service.
type service struct {
	t *transport
}

func (s service) parameters(wait time.Duration) *winrm.Parameters {
	return winrm.NewParameters(xsDuration(wait), "en-US", s.t.e.EnvelopeSize)
}

func xsDuration(d time.Duration) string { return fmt.Sprintf("PT%.3fS", d.Seconds()) }

const (
	nsShell     = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
	resourceCmd = nsShell + "/cmd"
	anonymous   = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
	// shellIdle is how long a shell outlives a labctl that was killed.
	shellIdle = 15 * time.Minute
)

// header begins a request of our own making, for what the library's lack:
// the shell's own id and idle time, and standard input as a pipe.
func (s service) header(action, shellID string, options ...*soap.HeaderOption) *soap.SoapMessage {
	m := soap.NewMessage()
	h := m.Header().To(s.t.e.url()).ReplyTo(anonymous).MaxEnvelopeSize(s.t.e.EnvelopeSize).
		Id("uuid:" + newUUID()).Locale("en-US").Timeout(xsDuration(s.t.e.Timeout)).
		Action(action).ResourceURI(resourceCmd).ShellId(shellID)
	for _, o := range options {
		h.AddOption(o)
	}
	h.Build()
	return m
}

func newUUID() string {
	n := newNonce()
	return strings.ToUpper(n[:8] + "-" + n[8:12] + "-4" + n[13:16] + "-a" + n[17:20] + "-" + n[20:])
}

// create makes a shell. Its id is ours (WSManCreateShellEx, since Windows
// Server 2012), so that it can be deleted when the answer is lost; what the
// machine answers counts.
func (s service) create(ctx context.Context, id string) (string, error) {
	m := s.header("http://schemas.xmlsoap.org/ws/2004/09/transfer/Create", "",
		soap.NewHeaderOption("WINRS_NOPROFILE", "FALSE"), soap.NewHeaderOption("WINRS_CODEPAGE", "65001"))
	body := m.CreateBodyElement("Shell", soap.DOM_NS_WIN_SHELL)
	body.SetAttr("ShellId", id)
	for _, e := range [][2]string{{"IdleTimeOut", xsDuration(shellIdle)}, {"InputStreams", "stdin"}, {"OutputStreams", "stdout stderr"}} {
		m.CreateElement(body, e[0], soap.DOM_NS_WIN_SHELL).SetContent(e[1])
	}
	r, err := s.call(ctx, "create a shell", m, 2*s.t.e.Timeout)
	if err != nil {
		return "", err
	}
	for _, selector := range r.Body.Created.Selectors {
		if selector.Name == "ShellId" {
			return strings.TrimSpace(selector.Value), nil
		}
	}
	if r.Body.Shell.ID == "" {
		return "", s.failure(ErrProtocol, "create a shell", "the answer has no shell id", nil)
	}
	return r.Body.Shell.ID, nil
}

func (s service) delete(ctx context.Context, id string) error {
	_, err := s.call(ctx, "delete the shell", winrm.NewDeleteShellRequest(s.t.e.url(), id, s.parameters(s.t.e.Timeout)), 2*s.t.e.Timeout)
	return err
}

// command starts the bootstrap; nothing of a call is in its command line.
func (s service) command(ctx context.Context, shellID string) (string, error) {
	m := s.header(nsShell+"/Command", shellID,
		soap.NewHeaderOption("WINRS_CONSOLEMODE_STDIN", "FALSE"), soap.NewHeaderOption("WINRS_SKIP_CMD_SHELL", "FALSE"))
	body := m.CreateBodyElement("CommandLine", soap.DOM_NS_WIN_SHELL)
	m.CreateElement(body, "Command", soap.DOM_NS_WIN_SHELL).SetContent("powershell.exe")
	for _, a := range arguments() {
		m.CreateElement(body, "Arguments", soap.DOM_NS_WIN_SHELL).SetContent(a)
	}
	r, err := s.call(ctx, "start a command", m, 2*s.t.e.Timeout)
	if err == nil && r.Body.CommandID == "" {
		err = s.failure(ErrProtocol, "start a command", "the answer has no command id", nil)
	}
	return r.Body.CommandID, err
}

func (s service) send(ctx context.Context, shellID, commandID string, data []byte, end bool) error {
	m := winrm.NewSendInputRequest(s.t.e.url(), shellID, commandID, data, end, s.parameters(s.t.e.Timeout))
	_, err := s.call(ctx, "send standard input", m, 2*s.t.e.Timeout)
	return err
}

// received is what one Receive brought.
type received struct {
	stdout, stderr []byte
	done           bool
	exitCode       int
}

func (s service) receive(ctx context.Context, shellID, commandID string) (received, error) {
	const doing = "receive output"
	m := winrm.NewGetOutputRequest(s.t.e.url(), shellID, commandID, "stdout stderr", s.parameters(s.t.e.Timeout))
	r, err := s.call(ctx, doing, m, 2*s.t.e.Timeout)
	if err != nil {
		return received{}, err
	}
	var out received
	for _, stream := range r.Body.Received.Streams {
		data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(stream.Data))
		if err != nil {
			return received{}, s.failure(ErrProtocol, doing, "the "+stream.Name+" stream is not base64", err)
		}
		switch stream.Name {
		case "stdout":
			out.stdout = append(out.stdout, data...)
		case "stderr":
			out.stderr = append(out.stderr, data...)
		}
	}
	state := r.Body.Received.State
	if out.done = strings.HasSuffix(state.State, "CommandState/Done"); out.done {
		// Exit codes are unsigned on the wire: 0xC000013A is 3221225786.
		code, _ := strconv.ParseUint(strings.TrimSpace(state.ExitCode), 10, 32)
		out.exitCode = int(int32(uint32(code)))
	}
	return out, nil
}

// signal sends "terminate" or "ctrl_c".
func (s service) signal(ctx context.Context, shellID, commandID, name string) error {
	m := s.header(nsShell+"/Signal", shellID)
	body := m.CreateBodyElement("Signal", soap.DOM_NS_WIN_SHELL)
	body.SetAttr("CommandId", commandID)
	m.CreateElement(body, "Code", soap.DOM_NS_WIN_SHELL).SetContent(nsShell + "/signal/" + name)
	_, err := s.call(ctx, "signal the command", m, 2*s.t.e.Timeout)
	return err
}

// reply is an answer of the service's.
type reply struct {
	Body struct {
		Fault   *soapFault `xml:"Fault"`
		Created struct {
			Selectors []struct {
				Name  string `xml:",attr"`
				Value string `xml:",chardata"`
			} `xml:"ReferenceParameters>SelectorSet>Selector"`
		} `xml:"ResourceCreated"`
		Shell struct {
			ID string `xml:"ShellId"`
		} `xml:"Shell"`
		CommandID string `xml:"CommandResponse>CommandId"`
		Received  struct {
			Streams []struct {
				Name string `xml:",attr"`
				Data string `xml:",chardata"`
			} `xml:"Stream"`
			State struct {
				State    string `xml:",attr"`
				ExitCode string `xml:"ExitCode"`
			} `xml:"CommandState"`
		} `xml:"ReceiveResponse"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

// soapFault is a fault with WinRM's detail (MS-WSMV 2.2.4.43).
type soapFault struct {
	Subcode string `xml:"Code>Subcode>Value"`
	Reason  string `xml:"Reason>Text"`
	Detail  struct {
		Code    uint32 `xml:",attr"`
		Message string `xml:",innerxml"`
	} `xml:"Detail>WSManFault"`
}

// Faults that the caller tells apart beside the Err values.
var (
	errShellLost  = errors.New("the shell is gone")
	errNoOutput   = errors.New("no output in time")
	errPipeClosed = errors.New("the command reads no more")
	errAborted    = errors.New("the command was ended")
)

// kindOf says what a fault is. Codes: wsmerror.h, and Win32's as HRESULTs.
func (f *soapFault) kindOf() (todo string, kind error) {
	switch c := f.Detail.Code; {
	case c == 2150858793: // ERROR_WSMAN_OPERATION_TIMEDOUT
		return "", errNoOutput
	case c == 2150858843: // ERROR_WSMAN_UNEXPECTED_SELECTORS: no shell of that id
		return "", errShellLost
	case c == 2147942632, c == 2147942509: // ERROR_NO_DATA, ERROR_BROKEN_PIPE
		return "", errPipeClosed
	case c == 5, c == 2147942405, c == 2150858806: // ERROR_ACCESS_DENIED, ERROR_WSMAN_FAILED_AUTHENTICATION
		return "the user must be an administrator or in Remote Management Users", ErrAuth
	case c == 2150858823, c == 2150858824, c == 2150858825: // ERROR_WSMAN_MAX_ENVELOPE_SIZE and its kin
		return envelopeTodo, ErrQuota
	case c == 2150858815, c >= 2150859173 && c <= 2150859176, c == 2150859179, // ERROR_WSMAN_QUOTA_…
		c >= 2150859236 && c <= 2150859242,                // …_PPQ: of the plug-in
		c == 2147944216, c == 2147942414, c == 2147942408, // ERROR_NOT_ENOUGH_QUOTA, E_OUTOFMEMORY, ERROR_NOT_ENOUGH_MEMORY
		c == 2147943855, strings.HasSuffix(f.Subcode, "QuotaLimit"): // ERROR_COMMITMENT_LIMIT
		return "end shells that are left (winrm enumerate shell) or raise MaxShellsPerUser, MaxProcessesPerShell, MaxMemoryPerShellMB in winrm/config/winrs", ErrQuota
	case c == 2147943395: // ERROR_OPERATION_ABORTED
		return "something ended the command or its shell on the machine", errAborted
	}
	return "", ErrProtocol
}

const envelopeTodo = "set the endpoint's envelope size to the machine's MaxEnvelopeSizekb (winrm get winrm/config)"

// failure is an error at this machine.
func (s service) failure(kind error, doing, got string, cause error) *failure {
	return &failure{kind: kind, where: s.t.e.address(), doing: doing, got: s.t.e.Password.without(got), cause: cause}
}

// call posts a message and reads the answer. Its errors match one of the Err
// values, one of those above, or the context's.
func (s service) call(ctx context.Context, doing string, m *soap.SoapMessage, within time.Duration) (reply, error) {
	timed, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	status, body, err := s.t.post(timed, []byte(m.String()))
	if err != nil {
		return reply{}, s.lost(ctx, timed, doing, within, err)
	}
	var r reply
	parse := xml.Unmarshal(body, &r)
	if parse == nil && r.Body.Fault != nil {
		f := r.Body.Fault
		todo, kind := f.kindOf()
		e := s.failure(kind, doing, excerpt(f.Reason)+fmt.Sprintf(" (WSManFault %d)", f.Detail.Code), nil)
		e.todo = todo
		return r, e
	}
	switch {
	case status == http.StatusRequestEntityTooLarge:
		e := s.failure(ErrQuota, doing, fmt.Sprintf("HTTP 413 to a request of %d bytes", len(m.String())), nil)
		e.todo = envelopeTodo
		return r, e
	case status != http.StatusOK:
		return r, s.failure(ErrUnreachable, doing, strings.TrimSuffix(fmt.Sprintf("HTTP %d: %s", status, excerpt(string(body))), ": "), &exchangeError{fmt.Errorf("HTTP %d", status), true})
	case parse != nil:
		return r, s.failure(ErrProtocol, doing, excerpt(string(body)), parse)
	}
	return r, nil
}

// lost makes an error of a request that has no answer.
func (s service) lost(ctx, timed context.Context, doing string, within time.Duration, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %s: %w", s.t.e.address(), doing, context.Cause(ctx))
	}
	if timed.Err() != nil {
		e := s.failure(ErrTimeout, doing, fmt.Sprintf("nothing within %s", within), err)
		e.todo = "is the machine under load, or a firewall between?"
		return e
	}
	if errors.Is(err, errRefused) {
		e := s.failure(ErrAuth, doing, err.Error(), errRefused)
		e.todo = "check user and password, and winrm get winrm/config/service/auth"
		if s.t.loggedOn.Load() {
			e.todo = "they were accepted before: a quota of the machine's may be used up (winrm enumerate shell), or the account was locked"
		}
		return e
	}
	e := s.failure(ErrUnreachable, doing, err.Error(), err)
	switch {
	case errors.Is(err, ErrCertificate):
		e.todo = "compare it with the machine's own (Get-ChildItem Cert:\\LocalMachine\\My) before you pin it"
	case strings.Contains(err.Error(), "x509:"):
		e.todo = "name the authority's file, or pin the certificate's fingerprint"
	default:
		e.todo = "is WinRM on (winrm quickconfig), and the port open?"
	}
	return e
}
