package wsman

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// operation answers one request of a user: the answer's action and body, or an
// error, which is a *fault or the context's.
func (s *Server) operation(ctx context.Context, user string, q *request) (action, body string, err error) {
	if q.Body.Identify != nil {
		return "", identity, nil
	}
	wait, err := q.timeout(s.limits.OperationTimeout)
	if err != nil {
		return "", "", err
	}
	if q.Header.ResourceURI != resourceCmd {
		return "", "", &fault{codeInvalidResource, "w:InvalidResourceURI", fmt.Sprintf("The WS-Management service cannot process the request. The resource URI %q is not one of this service's.", q.Header.ResourceURI)}
	}
	switch q.Header.Action {
	case actionCreate:
		body, err = s.create(user, q)
	case actionDelete:
		err = s.delete(user, q)
	case actionCommand:
		body, err = s.command(user, q)
	case actionSend:
		body, err = s.send(user, q, wait)
	case actionReceive:
		body, err = s.receive(ctx, user, q, wait)
	case actionSignal:
		body, err = s.signal(user, q)
	default:
		err = &fault{codeInvalidAction, "a:ActionNotSupported", fmt.Sprintf("The WS-Management service cannot process the request. The WS-Addressing action URI %q is invalid.", q.Header.Action)}
	}
	return q.Header.Action + "Response", body, err
}

const identity = `<wsmid:IdentifyResponse xmlns:wsmid="` + nsIdentity + `"><wsmid:ProtocolVersion>http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd</wsmid:ProtocolVersion><wsmid:ProductVendor>l4lab simulated host</wsmid:ProductVendor><wsmid:ProductVersion>OS: 10.0.20348 SP: 0.0 Stack: 3.0</wsmid:ProductVersion></wsmid:IdentifyResponse>`

func badBody(what string) *fault {
	return &fault{codeInvalidBody, "w:SchemaValidationError", "The WS-Management service cannot process the request because the request contains invalid data in its body: " + what + "."}
}

func (s *Server) create(user string, q *request) (string, error) {
	b := q.Body.Shell
	if b == nil {
		return "", badBody("no Shell")
	}
	idle := s.limits.IdleTimeout
	if b.IdleTimeOut != "" {
		asked, err := parseDuration(strings.TrimSpace(b.IdleTimeOut))
		if err != nil || asked <= 0 {
			return "", badBody("IdleTimeOut is no duration")
		}
		idle = min(idle, asked)
	}
	sh, err := s.shells.create(user, strings.TrimSpace(b.ShellID), idle, s.limits.ShellsPerUser)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`<x:ResourceCreated><a:Address>http://hvsim/wsman</a:Address><a:ReferenceParameters><w:ResourceURI>%s</w:ResourceURI><w:SelectorSet><w:Selector Name="ShellId">%s</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated><rsp:Shell><rsp:ShellId>%[2]s</rsp:ShellId><rsp:ResourceUri>%[1]s</rsp:ResourceUri><rsp:Owner>%s</rsp:Owner><rsp:IdleTimeOut>%s</rsp:IdleTimeOut><rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>`,
		resourceCmd, escape(sh.id), escape(user), duration(idle)), nil
}

func (s *Server) delete(user string, q *request) error {
	id, err := q.shellID()
	if err != nil {
		return err
	}
	return s.shells.delete(user, id)
}

func (s *Server) command(user string, q *request) (string, error) {
	id, err := q.shellID()
	if err != nil {
		return "", err
	}
	b := q.Body.CommandLine
	if b == nil || strings.TrimSpace(b.Command) == "" {
		return "", badBody("no Command")
	}
	p := Process{User: user, CommandLine: b.Command, Arguments: b.Arguments}
	run := s.Run
	if n := utf8.RuneCountInString(strings.Join(append([]string{b.Command}, b.Arguments...), " ")); n > s.limits.CommandLine {
		// cmd.exe says so and fails; WinRM knows nothing of it.
		run = func(_ context.Context, p Process) int {
			_, _ = io.WriteString(p.Stderr, "The command line is too long.\r\n")
			return 1
		}
	}
	c, err := s.shells.start(user, id, s.limits.ProcessesPerShell, run, p)
	if err != nil {
		return "", err
	}
	return `<rsp:CommandResponse><rsp:CommandId>` + c.id + `</rsp:CommandId></rsp:CommandResponse>`, nil
}

func (s *Server) send(user string, q *request, wait time.Duration) (string, error) {
	id, err := q.shellID()
	if err != nil {
		return "", err
	}
	if q.Body.Send == nil || len(q.Body.Send.Streams) == 0 {
		return "", badBody("no Stream")
	}
	for _, st := range q.Body.Send.Streams {
		if st.Name != "stdin" {
			return "", badBody(fmt.Sprintf("there is no input stream %q", st.Name))
		}
		data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(st.Data))
		if err != nil {
			return "", badBody("the stream is not base64")
		}
		c, err := s.shells.command(user, id, st.CommandID)
		if err != nil {
			return "", err
		}
		if err := c.stdin.send(data, wait); err != nil {
			return "", err
		}
		if strings.EqualFold(st.End, "true") || st.End == "1" {
			c.stdin.close(io.EOF)
		}
	}
	return `<rsp:SendResponse/>`, nil
}

func (s *Server) receive(ctx context.Context, user string, q *request, wait time.Duration) (string, error) {
	id, err := q.shellID()
	if err != nil {
		return "", err
	}
	if q.Body.Receive == nil {
		return "", badBody("no Receive")
	}
	c, err := s.shells.command(user, id, q.Body.Receive.DesiredStream.CommandID)
	if err != nil {
		return "", err
	}
	o, err := c.receive(ctx, q.responseLimit(s.limits.EnvelopeSize), wait)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(`<rsp:ReceiveResponse>`)
	for i, name := range streamNames {
		if len(o.data[i]) > 0 {
			fmt.Fprintf(&b, `<rsp:Stream Name="%s" CommandId="%s">%s</rsp:Stream>`, name, c.id, base64.StdEncoding.EncodeToString(o.data[i]))
		}
		if o.done {
			fmt.Fprintf(&b, `<rsp:Stream Name="%s" CommandId="%s" End="true"></rsp:Stream>`, name, c.id)
		}
	}
	if o.done {
		fmt.Fprintf(&b, `<rsp:CommandState CommandId="%s" State="%s"><rsp:ExitCode>%d</rsp:ExitCode></rsp:CommandState>`, c.id, stateDone, uint32(o.code))
	} else {
		fmt.Fprintf(&b, `<rsp:CommandState CommandId="%s" State="%s"></rsp:CommandState>`, c.id, stateRunning)
	}
	b.WriteString(`</rsp:ReceiveResponse>`)
	return b.String(), nil
}

func (s *Server) signal(user string, q *request) (string, error) {
	id, err := q.shellID()
	if err != nil {
		return "", err
	}
	b := q.Body.Signal
	if b == nil {
		return "", badBody("no Signal")
	}
	code := strings.ToLower(strings.TrimSpace(b.Code))
	switch code[strings.LastIndex(code, "/")+1:] {
	case "terminate":
		err = s.shells.terminate(user, id, b.CommandID)
	case "ctrl_c", "ctrl_break":
		var c *command
		if c, err = s.shells.command(user, id, b.CommandID); err == nil {
			c.interrupt()
		}
	default:
		err = badBody(fmt.Sprintf("there is no signal %q", b.Code))
	}
	return `<rsp:SignalResponse/>`, err
}

// faultOf is what an error is on the wire.
func faultOf(err error) *fault {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	return &fault{codeAborted, "w:InternalError", err.Error()}
}
