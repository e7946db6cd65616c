package probe

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"
	"time"
)

func sampleReport() Report {
	return Report{Lab: "l4lb", Started: time.Unix(1700000000, 0), Duration: 1500 * time.Millisecond, Checks: []Check{
		{Mode: "dsr", Service: 1, Name: "good", Status: Pass, Expected: "a < b & c", Seen: "9 packets", Duration: 250 * time.Millisecond},
		{Mode: "dsr", Service: 1, Name: "bad", Status: Fail, Expected: "one", Seen: "two; 1 not as expected: \"x\" > <y>\x00", Faults: []string{"\"x\" > <y>"}, Packets: []string{"lb port #1 …"}},
		{Mode: "snat", Service: 1, Name: "open", Status: Unverifiable, Expected: "e", Seen: "the capture lost frames"},
		{Mode: "snat", Service: 1, Name: "left out", Status: Skipped, Expected: "e", Seen: "no transfer"},
	}}
}

func TestTextShowsEachCheckAndThePacketsOfThoseThatFailed(t *testing.T) {
	var b bytes.Buffer
	if err := sampleReport().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"RESULT", "pass          dsr   1", "FAIL: bad (dsr, service 1)", "expected: one", "packet:   lb port #1",
		"UNVERIFIABLE: open", "1 passed, 1 failed, 1 unverifiable, 1 skipped in 1.5s",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "PASS: good") {
		t.Error("details of a check that passed are shown")
	}
}

func TestJSONReadsBackAsItWas(t *testing.T) {
	var b bytes.Buffer
	if err := sampleReport().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if !back.Failed() || len(back.Checks) != 4 || back.Checks[1].Packets[0] != "lb port #1 …" || back.Duration != 1500*time.Millisecond {
		t.Errorf("back = %+v", back)
	}
}

func TestJUnitIsWellFormedWhateverTheChecksSay(t *testing.T) {
	var b bytes.Buffer
	if err := sampleReport().WriteJUnit(&b); err != nil {
		t.Fatal(err)
	}
	var back junitSuites
	if err := xml.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	if back.Tests != 4 || back.Failures != 1 || back.Skipped != 2 || len(back.Suites) != 2 || back.Time != "1.500" {
		t.Errorf("suites = %+v", back)
	}
	bad := back.Suites[0].Cases[1]
	if bad.Failure == nil || !strings.Contains(bad.Failure.Text, `"x" > <y>`) || !strings.Contains(bad.Failure.Text, "lb port #1") {
		t.Errorf("failure = %+v", bad.Failure)
	}
	if s := back.Suites[1].Cases[0].Skipped; s == nil || !strings.HasPrefix(s.Message, "unverifiable: ") {
		t.Errorf("unverifiable check = %+v", s)
	}
	if back.Suites[0].Tests != 2 || back.Suites[0].Failures != 1 || back.Suites[0].Time != "0.250" {
		t.Errorf("first suite = %+v", back.Suites[0])
	}
}

func TestAReportWithoutFailuresHasNotFailed(t *testing.T) {
	r := sampleReport()
	r.Checks[1].Status = Pass
	if r.Failed() {
		t.Error("unverifiable and skipped checks count as failed")
	}
}
