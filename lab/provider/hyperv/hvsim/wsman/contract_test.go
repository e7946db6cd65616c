package wsman_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"l4lab/lab/provider/hyperv/hvsim/wsman"
)

const (
	transferNS = "http://schemas.xmlsoap.org/ws/2004/09/transfer/"
	shellNS    = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
)

// client speaks SOAP by hand, so that it can say what no library would.
type client struct {
	t    *testing.T
	url  string
	http *http.Client
	user string
}

func newClient(t *testing.T, s service) client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return client{t, "https://" + s.address + "/wsman", &http.Client{Transport: transport}, "lab"}
}

type answer struct {
	status int
	Fault  struct {
		Code uint32 `xml:",attr"`
	} `xml:"Body>Fault>Detail>WSManFault"`
	RelatesTo string `xml:"Header>RelatesTo"`
	ShellID   string `xml:"Body>Shell>ShellId"`
	CommandID string `xml:"Body>CommandResponse>CommandId"`
	Vendor    string `xml:"Body>IdentifyResponse>ProductVendor"`
	Streams   []struct {
		Name string `xml:",attr"`
		Data string `xml:",chardata"`
	} `xml:"Body>ReceiveResponse>Stream"`
	State struct {
		State    string `xml:",attr"`
		ExitCode string `xml:"ExitCode"`
	} `xml:"Body>ReceiveResponse>CommandState"`
}

func (a answer) stream(name string) string {
	var s string
	for _, st := range a.Streams {
		if data, err := base64.StdEncoding.DecodeString(st.Data); err == nil && st.Name == name {
			s += string(data)
		}
	}
	return s
}

func (c client) post(body string) answer {
	c.t.Helper()
	r, err := http.NewRequest(http.MethodPost, c.url, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.SetBasicAuth(c.user, password)
	r.Header.Set("Content-Type", "application/soap+xml;charset=UTF-8")
	res, err := c.http.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	a := answer{status: res.StatusCode}
	if len(text) > 0 {
		if err := xml.Unmarshal(text, &a); err != nil {
			c.t.Fatalf("answer %q: %v", text, err)
		}
	}
	return a
}

type header struct {
	action, resource, selector, timeout string
}

func envelope(h header, body string) string {
	if h.resource == "" {
		h.resource = shellNS + "/cmd"
	}
	if h.timeout == "" {
		h.timeout = "PT0.2S"
	}
	return fmt.Sprintf(`<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:rsp="%s"><s:Header><a:Action>%s</a:Action><a:MessageID>uuid:1</a:MessageID><w:ResourceURI>%s</w:ResourceURI><w:OperationTimeout>%s</w:OperationTimeout><w:MaxEnvelopeSize>153600</w:MaxEnvelopeSize>%s</s:Header><s:Body>%s</s:Body></s:Envelope>`,
		shellNS, h.action, h.resource, h.timeout, h.selector, body)
}

func selector(id string) string {
	return `<w:SelectorSet><w:Selector Name="ShellId">` + id + `</w:Selector></w:SelectorSet>`
}

const shellBody = `<rsp:Shell><rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>`

func (c client) create() string {
	c.t.Helper()
	a := c.post(envelope(header{action: transferNS + "Create"}, shellBody))
	if a.status != 200 || a.ShellID == "" || a.RelatesTo != "uuid:1" {
		c.t.Fatalf("create: %+v", a)
	}
	return a.ShellID
}

func (c client) command(shell, line string) answer {
	return c.post(envelope(header{action: shellNS + "/Command", selector: selector(shell)}, `<rsp:CommandLine><rsp:Command>`+line+`</rsp:Command></rsp:CommandLine>`))
}

func (c client) receive(shell, command string) answer {
	return c.post(envelope(header{action: shellNS + "/Receive", selector: selector(shell)}, `<rsp:Receive><rsp:DesiredStream CommandId="`+command+`">stdout stderr</rsp:DesiredStream></rsp:Receive>`))
}

func (c client) signal(shell, command, name string) answer {
	return c.post(envelope(header{action: shellNS + "/Signal", selector: selector(shell)}, `<rsp:Signal CommandId="`+command+`"><rsp:Code>`+shellNS+"/signal/"+name+`</rsp:Code></rsp:Signal>`))
}

func (c client) send(shell, command, data, attributes string) answer {
	return c.post(envelope(header{action: shellNS + "/Send", selector: selector(shell)}, `<rsp:Send><rsp:Stream Name="stdin" CommandId="`+command+`"`+attributes+`>`+data+`</rsp:Stream></rsp:Send>`))
}

// fill sends input until it is not taken.
func (c client) fill(shell, command string) answer {
	data := base64.StdEncoding.EncodeToString(make([]byte, 300_000))
	for range 10 {
		if a := c.send(shell, command, data, ""); a.status != 200 {
			return a
		}
	}
	return answer{}
}

func (c client) delete(shell string) answer {
	return c.post(envelope(header{action: transferNS + "Delete", selector: selector(shell)}, ""))
}

// What a request that cannot be served is answered with: HTTP status and WinRM's code.
func TestFaultsAreWinRMsOwn(t *testing.T) {
	cases := map[string]struct {
		limits wsman.Limits
		ask    func(c client) answer
		status int
		code   uint32
	}{
		"no XML":            {ask: func(c client) answer { return c.post("hello") }, status: 500, code: 2150858819},
		"two envelopes":     {ask: func(c client) answer { e := envelope(header{}, ""); return c.post(e + e) }, status: 500, code: 2150858819},
		"an unknown action": {ask: func(c client) answer { return c.post(envelope(header{action: "x"}, "")) }, status: 500, code: 2150858753},
		"an unknown resource": {ask: func(c client) answer {
			return c.post(envelope(header{action: transferNS + "Create", resource: "x"}, ""))
		}, status: 500, code: 2150858811},
		"a timeout that is none": {ask: func(c client) answer {
			return c.post(envelope(header{action: transferNS + "Create", timeout: "soon"}, shellBody))
		}, status: 500, code: 2150858881},
		"a shell without a body": {ask: func(c client) answer { return c.post(envelope(header{action: transferNS + "Create"}, "")) }, status: 500, code: 2150858791},
		"an idle time that is none": {ask: func(c client) answer {
			return c.post(envelope(header{action: transferNS + "Create"}, `<rsp:Shell><rsp:IdleTimeOut>x</rsp:IdleTimeOut></rsp:Shell>`))
		}, status: 500, code: 2150858791},
		"a shell's id that is taken": {ask: func(c client) answer {
			return c.post(envelope(header{action: transferNS + "Create"}, `<rsp:Shell ShellId="`+c.create()+`"/>`))
		}, status: 500, code: 2147942487},
		"a shell that is not there": {ask: func(c client) answer { return c.command("no", "echo") }, status: 500, code: 2150858843},
		"deleting it twice":         {ask: func(c client) answer { s := c.create(); c.delete(s); return c.delete(s) }, status: 500, code: 2150858843},
		"no selector":               {ask: func(c client) answer { return c.post(envelope(header{action: transferNS + "Delete"}, "")) }, status: 500, code: 2150858842},
		"another selector": {ask: func(c client) answer {
			return c.post(envelope(header{action: transferNS + "Delete", selector: `<w:SelectorSet><w:Selector Name="x">y</w:Selector></w:SelectorSet>`}, ""))
		}, status: 500, code: 2150858813},
		"a command without a line":    {ask: func(c client) answer { return c.command(c.create(), " ") }, status: 500, code: 2150858791},
		"a command that is not there": {ask: func(c client) answer { return c.receive(c.create(), "no") }, status: 500, code: 2147942487},
		"no output in time":           {ask: func(c client) answer { s := c.create(); return c.receive(s, c.command(s, "hang").CommandID) }, status: 500, code: 2150858793},
		"output of what was terminated": {ask: func(c client) answer {
			s := c.create()
			id := c.command(s, "hang").CommandID
			c.signal(s, id, "terminate")
			return c.receive(s, id)
		}, status: 500, code: 2147942487},
		"a signal that is none":   {ask: func(c client) answer { s := c.create(); return c.signal(s, c.command(s, "hang").CommandID, "hup") }, status: 500, code: 2150858791},
		"input that is no base64": {ask: func(c client) answer { s := c.create(); return c.send(s, c.command(s, "cat").CommandID, "%", "") }, status: 500, code: 2150858791},
		"input behind its end": {ask: func(c client) answer {
			s := c.create()
			id := c.command(s, "cat").CommandID
			c.send(s, id, "", ` End="true"`)
			return c.send(s, id, "eA==", "")
		}, status: 500, code: 2147942632},
		"input that nobody reads": {ask: func(c client) answer { s := c.create(); id := c.command(s, "hang").CommandID; return c.fill(s, id) }, status: 500, code: 2150858793},
		"a shell too many": {limits: wsman.Limits{ShellsPerUser: 1}, ask: func(c client) answer {
			c.create()
			return c.post(envelope(header{action: transferNS + "Create"}, shellBody))
		}, status: 500, code: 2150859173},
		"a process too many":            {limits: wsman.Limits{ProcessesPerShell: 1}, ask: func(c client) answer { s := c.create(); c.command(s, "hang"); return c.command(s, "hang") }, status: 500, code: 2150859174},
		"an envelope that is too large": {limits: wsman.Limits{EnvelopeSize: 20000}, ask: func(c client) answer { return c.post(envelope(header{}, strings.Repeat(" ", 20000))) }, status: 413},
		"one far too large":             {limits: wsman.Limits{EnvelopeSize: 20000}, ask: func(c client) answer { return c.post(envelope(header{}, strings.Repeat(" ", 900000))) }, status: 413},
		"a wrong user":                  {ask: func(c client) answer { c.user = "other"; return c.post(envelope(header{}, "")) }, status: 401},
		"another user's shell":          {ask: func(c client) answer { s := c.create(); c.user = "second"; return c.command(s, "echo") }, status: 500, code: 2150858843},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := serve(t, false, func(s *wsman.Server) { s.Limits = c.limits; s.Users["second"] = password })
			if a := c.ask(newClient(t, s)); a.status != c.status || a.Fault.Code != c.code {
				t.Errorf("HTTP %d with code %d, want %d with %d", a.status, a.Fault.Code, c.status, c.code)
			}
		})
	}
}

func TestACommandRunsWhileItsOutputIsAskedFor(t *testing.T) {
	s := serve(t, false, nil)
	c := newClient(t, s)
	shell := c.create()
	id := c.command(shell, "cat").CommandID
	c.send(shell, id, base64.StdEncoding.EncodeToString([]byte("hello")), "")
	a := c.receive(shell, id)
	if a.stream("stdout") != "hello" || !strings.HasSuffix(a.State.State, "/Running") {
		t.Errorf("while it runs: %+v", a)
	}
	c.send(shell, id, "", ` End="true"`)
	if a = c.receive(shell, id); !strings.HasSuffix(a.State.State, "/Done") || a.State.ExitCode != "0" {
		t.Errorf("at its end: %+v", a)
	}
	if a = c.delete(shell); a.status != 200 || s.Shells() != 0 {
		t.Errorf("delete: %+v, %d shells", a, s.Shells())
	}
}

func TestAnAnswerKeepsToTheClientsEnvelope(t *testing.T) {
	c := newClient(t, serve(t, false, nil))
	shell := c.create()
	id := c.command(shell, "big").CommandID
	total := 0
	for {
		a := c.receive(shell, id)
		n := len(a.stream("stdout"))
		if n > 153600*3/4 {
			t.Fatalf("%d bytes in an envelope of 153,600", n)
		}
		if total += n; strings.HasSuffix(a.State.State, "/Done") {
			break
		}
	}
	if total != 3<<20 {
		t.Errorf("got %d bytes", total)
	}
}

func TestCtrlCReachesTheProcessAndTerminateEndsIt(t *testing.T) {
	s := serve(t, false, nil)
	c := newClient(t, s)
	shell := c.create()
	id := c.command(shell, "hang").CommandID
	if a := c.signal(shell, id, "ctrl_c"); a.status != 200 {
		t.Fatalf("ctrl_c: %+v", a)
	}
	until(t, "the process has ended", func() bool { return s.Processes() == 0 })
	a := c.receive(shell, id)
	if a.stream("stdout") != "interrupted" || a.State.ExitCode != "3221225786" {
		t.Errorf("after Ctrl-C: %+v", a)
	}
	id = c.command(shell, "hang").CommandID
	c.signal(shell, id, "Terminate")
	until(t, "the process has ended", func() bool { return s.Processes() == 0 })
}

func TestALongCommandLineIsCmdsErrorNotWinRMs(t *testing.T) {
	c := newClient(t, serve(t, false, nil))
	shell := c.create()
	for n, want := range map[int]string{8191: "", 8192: "The command line is too long.\r\n"} {
		id := c.command(shell, "echo "+strings.Repeat("x", n-5)).CommandID
		a := c.receive(shell, id)
		if got := a.stream("stderr"); got != want || (want == "") != (a.State.ExitCode == "0") {
			t.Errorf("%d characters: exit code %s, standard error %q", n, a.State.ExitCode, got)
		}
	}
}

func TestAnIdleShellGoesAndABusyOneStays(t *testing.T) {
	s := serve(t, false, func(s *wsman.Server) { s.Limits.IdleTimeout = 30 * time.Millisecond })
	c := newClient(t, s)
	c.create()
	until(t, "the idle shell has gone", func() bool { return s.Shells() == 0 })
	shell := c.create()
	id := c.command(shell, "hang").CommandID
	time.Sleep(100 * time.Millisecond) // several idle times
	if s.Shells() != 1 {
		t.Fatal("the busy shell has gone")
	}
	c.signal(shell, id, "terminate")
	until(t, "the shell has gone once it was idle", func() bool { return s.Shells() == 0 })
}

func TestIdentifyNamesASimulatedHost(t *testing.T) {
	c := newClient(t, serve(t, false, nil))
	a := c.post(`<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Header/><s:Body><i:Identify xmlns:i="http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"/></s:Body></s:Envelope>`)
	if a.status != 200 || !strings.Contains(a.Vendor, "simulated") {
		t.Errorf("got %+v", a)
	}
}

func TestClosingEndsWhatRuns(t *testing.T) {
	s := serve(t, false, nil)
	c := newClient(t, s)
	c.command(c.create(), "hang")
	_ = s.Close()
	until(t, "nothing runs", func() bool { return s.Processes() == 0 && s.Shells() == 0 })
}
