package wsman

import (
	"bytes"
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Namespaces and actions (MS-WSMV 2.2.1, 3.1.4).
const (
	soapType    = "application/soap+xml;charset=UTF-8"
	nsShell     = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
	resourceCmd = nsShell + "/cmd"
	nsTransfer  = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
	nsIdentity  = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"

	actionCreate  = nsTransfer + "/Create"
	actionDelete  = nsTransfer + "/Delete"
	actionCommand = nsShell + "/Command"
	actionSend    = nsShell + "/Send"
	actionReceive = nsShell + "/Receive"
	actionSignal  = nsShell + "/Signal"
	actionFault   = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"

	stateRunning = nsShell + "/CommandState/Running"
	stateDone    = nsShell + "/CommandState/Done"

	// headroom is what of an envelope is not data.
	headroom = 4096
)

// request is an envelope as it came.
type request struct {
	XMLName xml.Name `xml:"http://www.w3.org/2003/05/soap-envelope Envelope"`
	Header  struct {
		Action           string `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing Action"`
		MessageID        string `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing MessageID"`
		ResourceURI      string `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd ResourceURI"`
		OperationTimeout string `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OperationTimeout"`
		MaxEnvelopeSize  string `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd MaxEnvelopeSize"`
		SelectorSet      struct {
			Selectors []named `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd Selector"`
		} `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd SelectorSet"`
		OptionSet struct {
			Options []named `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd Option"`
		} `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OptionSet"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Header"`
	Body struct {
		Identify *struct{} `xml:"http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd Identify"`
		Shell    *struct {
			ShellID       string `xml:"ShellId,attr"`
			IdleTimeOut   string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell IdleTimeOut"`
			InputStreams  string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell InputStreams"`
			OutputStreams string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell OutputStreams"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Shell"`
		CommandLine *struct {
			Command   string   `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Command"`
			Arguments []string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Arguments"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell CommandLine"`
		Send *struct {
			Streams []stream `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Stream"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Send"`
		Receive *struct {
			DesiredStream struct {
				CommandID string `xml:"CommandId,attr"`
				Names     string `xml:",chardata"`
			} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell DesiredStream"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Receive"`
		Signal *struct {
			CommandID string `xml:"CommandId,attr"`
			Code      string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Code"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Signal"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

type named struct {
	Name  string `xml:",attr"`
	Value string `xml:",chardata"`
}

type stream struct {
	Name      string `xml:",attr"`
	CommandID string `xml:"CommandId,attr"`
	End       string `xml:",attr"`
	Data      string `xml:",chardata"`
}

// parseRequest reads an envelope. What is no envelope is WinRM's fault for it.
func parseRequest(body []byte) (*request, error) {
	var q request
	d := xml.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&q); err != nil {
		return nil, &fault{codeInvalidXML, "w:SchemaValidationError", "The SOAP XML in the message does not match the corresponding XML schema definition: " + err.Error()}
	}
	if len(bytes.TrimSpace(body[d.InputOffset():])) > 0 {
		return nil, &fault{codeInvalidXML, "w:SchemaValidationError", "The SOAP XML in the message has something after its envelope."}
	}
	h := &q.Header
	for _, s := range []*string{&h.Action, &h.MessageID, &h.ResourceURI, &h.OperationTimeout, &h.MaxEnvelopeSize} {
		*s = strings.TrimSpace(*s)
	}
	return &q, nil
}

// shellID returns the request's selector.
func (q *request) shellID() (string, error) {
	id := ""
	for _, s := range q.Header.SelectorSet.Selectors {
		if s.Name != "ShellId" {
			return "", invalidSelector(s.Name)
		}
		id = strings.TrimSpace(s.Value)
	}
	if id == "" {
		return "", missingSelector()
	}
	return id, nil
}

// timeout is how long the operation may take, at most limit.
func (q *request) timeout(limit time.Duration) (time.Duration, error) {
	if q.Header.OperationTimeout == "" {
		return limit, nil
	}
	d, err := parseDuration(q.Header.OperationTimeout)
	if err != nil {
		return 0, &fault{codeInvalidTimeout, "w:InvalidTimeout", "The WS-Management service cannot process the request because the OperationTimeout header is invalid."}
	}
	return min(d, limit), nil
}

// responseLimit is the most bytes of data in an answer.
func (q *request) responseLimit(limit int) int {
	if n, err := strconv.Atoi(q.Header.MaxEnvelopeSize); err == nil && n > 0 {
		limit = min(limit, n)
	}
	return max((limit-headroom)/4*3, 1024)
}

// parseDuration reads the xs:duration forms that clients send: PT60S, PT60.000S, PT1M30S, P0DT0H5M0S.
func parseDuration(s string) (time.Duration, error) {
	rest, ok := strings.CutPrefix(s, "P")
	if !ok {
		return 0, fmt.Errorf("%q is no duration", s)
	}
	var total time.Duration
	units := map[byte]time.Duration{'D': 24 * time.Hour}
	for rest != "" {
		if rest[0] == 'T' {
			units = map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second}
			rest = rest[1:]
			continue
		}
		end := strings.IndexAny(rest, "DHMS")
		if end < 1 {
			return 0, fmt.Errorf("%q is no duration", s)
		}
		n, err := strconv.ParseFloat(rest[:end], 64)
		unit, known := units[rest[end]]
		if err != nil || !known || n < 0 || n > 1e6 {
			return 0, fmt.Errorf("%q is no duration", s)
		}
		total += time.Duration(n * float64(unit))
		rest = rest[end+1:]
	}
	return total, nil
}

// duration writes one as WinRM does.
func duration(d time.Duration) string { return fmt.Sprintf("PT%.3fS", d.Seconds()) }

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

const envelopeFormat = `<s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"><s:Header><a:Action>%s</a:Action><a:MessageID>uuid:%s</a:MessageID><a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To><a:RelatesTo>%s</a:RelatesTo></s:Header><s:Body>%s</s:Body></s:Envelope>`

// answer writes an envelope; body is XML.
func answer(action, relatesTo, body string) []byte {
	return fmt.Appendf(nil, envelopeFormat, action, newID(), escape(relatesTo), body)
}

// answerFault writes a fault's envelope.
func answerFault(f *fault, relatesTo string) []byte {
	side := "s:Sender"
	if f.code == codeTimedOut || f.subcode == "w:InternalError" {
		side = "s:Receiver"
	}
	reason := escape(f.reason)
	body := fmt.Sprintf(`<s:Fault><s:Code><s:Value>%s</s:Value><s:Subcode><s:Value>%s</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">%s</s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="%d" Machine="hvsim"><f:Message>%s</f:Message></f:WSManFault></s:Detail></s:Fault>`,
		side, f.subcode, reason, f.code, reason)
	return answer(actionFault, relatesTo, body)
}
