package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"
)

func TestTheReportHasWhatASpecMeasuredAlsoWhereItPassed(t *testing.T) {
	s := listedSession(t)
	spec := s.listed.SpecReports[0]
	spec.ReportEntries = types.ReportEntries{
		{Name: "while a backend drained", Value: types.WrapEntryValue(figures{Opened: 250, FailedNew: 0}), Visibility: types.ReportEntryVisibilityFailureOrVerbose},
		{Name: "status of a lab", Value: types.WrapEntryValue("up"), Visibility: types.ReportEntryVisibilityAlways},
	}
	// As it comes from the process that ran it.
	data, err := json.Marshal(message{Spec: &spec})
	if err != nil {
		t.Fatal(err)
	}
	var m message
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	s.take(1, *m.Spec)
	outcome, err := s.end(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	written, err := json.Marshal(outcome.Specs[0].Figures)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`"name":"while a backend drained"`, `"opened":250`, `"failedNew":0`} {
		if !strings.Contains(string(written), text) {
			t.Errorf("the report has %s, want %s in it", written, text)
		}
	}
	if strings.Contains(string(written), "status of a lab") {
		t.Errorf("the report has a failure's evidence among the figures: %s", written)
	}
}
