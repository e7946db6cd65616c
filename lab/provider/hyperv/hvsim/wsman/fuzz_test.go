package wsman

import (
	"context"
	"testing"
	"time"
)

func FuzzRequest(f *testing.F) {
	const open = `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:rsp="` + nsShell + `"><s:Header><a:Action>`
	const middle = `</a:Action><w:ResourceURI>` + resourceCmd + `</w:ResourceURI><w:OperationTimeout>PT0.001S</w:OperationTimeout><w:SelectorSet><w:Selector Name="ShellId">S</w:Selector></w:SelectorSet></s:Header><s:Body>`
	for action, body := range map[string]string{
		actionCreate:  `<rsp:Shell ShellId="S"><rsp:IdleTimeOut>PT1S</rsp:IdleTimeOut></rsp:Shell>`,
		actionCommand: `<rsp:CommandLine><rsp:Command>x</rsp:Command><rsp:Arguments>y</rsp:Arguments></rsp:CommandLine>`,
		actionSend:    `<rsp:Send><rsp:Stream Name="stdin" CommandId="C" End="true">eA==</rsp:Stream></rsp:Send>`,
		actionReceive: `<rsp:Receive><rsp:DesiredStream CommandId="C">stdout</rsp:DesiredStream></rsp:Receive>`,
		actionSignal:  `<rsp:Signal CommandId="C"><rsp:Code>terminate</rsp:Code></rsp:Signal>`,
		actionDelete:  ``,
	} {
		f.Add([]byte(open + action + middle + body + `</s:Body></s:Envelope>`))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &Server{Run: func(context.Context, Process) int { return 0 }}
		s.init()
		defer s.Close()
		if _, err := s.shells.create("u", "S", time.Hour, 1); err != nil {
			t.Fatal(err)
		}
		q, err := parseRequest(body)
		if err == nil {
			q.Header.OperationTimeout = "PT0.001S" // a Receive must not hold the test up
			_, _, err = s.operation(t.Context(), "u", q)
		}
		if err != nil {
			_ = answerFault(faultOf(err), "x")
		}
	})
}

// Messages of a handshake and of sealing come from anyone who can connect.
func FuzzNTLM(f *testing.F) {
	f.Add([]byte("NTLMSSP\x00\x01\x00\x00\x00\x00\x00\x00\x00"), []byte("NTLMSSP\x00\x03\x00\x00\x00"+string(make([]byte, 80))))
	f.Fuzz(func(t *testing.T, negotiate, authenticate []byte) {
		h, err := challengeTo(t.Context(), negotiate)
		if err != nil {
			return
		}
		if user, _, err := h.authenticate(t.Context(), authenticate, (&Server{}).password); err == nil {
			t.Errorf("%q logged on where there are no users", user)
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(sealedBoundary + "\tOriginalContent: Length=1\r\n" + sealedBoundary + sealedData + "\x10\x00\x00\x00" + string(make([]byte, 17)) + sealedEnd))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := newSealer(t.Context(), make([]byte, 16), offered)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.open(t.Context(), body); err == nil {
			t.Error("opened what nobody sealed")
		}
	})
}

func TestDurationsAreThoseOfXMLSchema(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"PT60S": time.Minute, "PT60.000S": time.Minute, "PT1M30S": 90 * time.Second, "P0DT0H5M0S": 5 * time.Minute, "P1D": 24 * time.Hour, "PT0.5S": 500 * time.Millisecond,
		"": -1, "60": -1, "PT": 0, "P1X": -1, "PT-1S": -1, "PTS": -1, "P1M": -1, "PT1e9S": -1,
	} {
		got, err := parseDuration(s)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: got %s, %v", s, got, err)
		}
	}
}
