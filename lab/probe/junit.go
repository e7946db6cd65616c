package probe

import (
	"encoding/xml"
	"fmt"
	"io"
	"time"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Skipped   int         `xml:"skipped,attr"`
	Time      string      `xml:"time,attr"`
	Timestamp string      `xml:"timestamp,attr"`
	Cases     []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name      string        `xml:"name,attr"`
	ClassName string        `xml:"classname,attr"`
	Time      string        `xml:"time,attr"`
	Failure   *junitMessage `xml:"failure,omitempty"`
	Skipped   *junitMessage `xml:"skipped,omitempty"`
	Output    string        `xml:"system-out,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes the report as JUnit XML: one suite for each service and
// mode, one case for each check. Unverifiable checks count as skipped, the
// format's only word for neither right nor wrong.
func (r Report) WriteJUnit(w io.Writer) error {
	all := junitSuites{
		Name: "labctl test " + r.Lab, Tests: len(r.Checks), Failures: r.Count(Fail),
		Skipped: r.Count(Skipped) + r.Count(Unverifiable), Time: seconds(r.Duration),
	}
	var durations []time.Duration
	for _, c := range r.Checks {
		name := fmt.Sprintf("%s.%s.service%d", r.Lab, c.Mode, c.Service)
		if n := len(all.Suites); n == 0 || all.Suites[n-1].Name != name {
			all.Suites = append(all.Suites, junitSuite{Name: name, Timestamp: r.Started.UTC().Format("2006-01-02T15:04:05")})
			durations = append(durations, 0)
		}
		last := len(all.Suites) - 1
		suite := &all.Suites[last]
		durations[last] += c.Duration
		suite.Time = seconds(durations[last])
		suite.Tests++
		result := junitCase{Name: c.Name, ClassName: name, Time: seconds(c.Duration)}
		switch c.Status {
		case Fail:
			suite.Failures++
			result.Failure = &junitMessage{Message: c.Seen, Type: string(c.Status), Text: c.Details()}
		case Skipped, Unverifiable:
			suite.Skipped++
			result.Skipped = &junitMessage{Message: string(c.Status) + ": " + c.Seen}
		default:
			result.Output = c.Details()
		}
		suite.Cases = append(suite.Cases, result)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return fmt.Errorf("write JUnit XML: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
