package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestAWrongCommandLineIsExplainedAndChangesNothing(t *testing.T) {
	for _, line := range []string{"", "serve", "firstboot now", "firstboot -wait", "firstboot -force"} {
		var stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(line), &stderr); code != 2 || !strings.Contains(stderr.String(), "usage: ") {
			t.Errorf("%q exits with %d and says %s", line, code, &stderr)
		}
	}
}
