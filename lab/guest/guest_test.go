package guest_test

import (
	"testing"

	"l4lab/lab/guest"
)

func TestExitError(t *testing.T) {
	cases := []struct {
		name string
		err  guest.ExitError
		want string
	}{
		{"names the command and the code", guest.ExitError{Argv: []string{"curl", "-s", "http://40.1.1.1/"}, Code: 7}, "curl -s http://40.1.1.1/: exit code 7"},
		{"adds what it wrote, trimmed", guest.ExitError{Argv: []string{"false"}, Code: 1, Stderr: "  no such file\n\n"}, "false: exit code 1: no such file"},
		{"adds nothing when it wrote blanks", guest.ExitError{Argv: []string{"false"}, Code: 137, Stderr: " \n"}, "false: exit code 137"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := c.err.Error(); got != c.want {
				t.Errorf("Error() = %q, want %q", got, c.want)
			}
		})
	}
}
