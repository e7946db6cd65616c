package guestinit

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestUnitFiles(t *testing.T) {
	const whole = `# a comment
[Unit]
Description=Everything that is known
RequiresMountsFor=/sys/fs/bpf
StartLimitIntervalSec=0
[Service]
Type=exec
Environment=A=1 "B=two words"
ExecStartPre=-/bin/false
ExecStart=/bin/echo $A ${B} "a \"quoted\" word" 100%% $$HOME %n \
  more
Restart=on-failure
RestartSec=1500ms
ProtectSystem=strict
[Install]
WantedBy=multi-user.target
[X-Own]
Spec=what systemd ignores
`
	u, err := ParseUnit("echo.service", whole)
	if err != nil {
		t.Fatal(err)
	}
	got := expand(u.Start[0].Argv, u.Environment)
	want := []string{"/bin/echo", "1", "two words", `a "quoted" word`, "100%", "$HOME", "echo.service", "more"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, expected %q", got, want)
	}
	if !u.Before[0].Lenient || u.Pause != 1500*time.Millisecond || !u.NoStartLimit || u.WantedBy[0] != "multi-user.target" {
		t.Errorf("read %+v", u)
	}
	for _, c := range []struct{ name, text, want string }{
		{"a key that may matter", "[Service]\nExecStart=/bin/true\nRootDirectory=/srv", "RootDirectory"},
		{"a type that is not done", "[Service]\nType=forking\nExecStart=/bin/true", "forking"},
		{"nothing to start", "[Service]\nType=simple", "ExecStart"},
		{"two main processes", "[Service]\nExecStart=/bin/true\nExecStart=/bin/true", "2 ExecStart"},
		{"an open quote", "[Service]\nExecStart=/bin/echo \"a", "open"},
		{"no key", "[Service]\nExecStart", "KEY=VALUE"},
	} {
		t.Run(c.name+" is an error", func(t *testing.T) {
			if _, err := ParseUnit("x.service", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, expected %q in it", err, c.want)
			}
		})
	}
}
