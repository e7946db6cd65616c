package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestConsoleRunsAScript(t *testing.T) {
	s := newSession(t)
	code, out, errOut := s.run(t, `# set up
service update --frontend=40.1.1.1:80 --backends=20.1.1.10:80 --id=1

mode update snat # live
exit
mode update dsr
`, "console", "--socket", "%SOCKET")
	if code != 0 {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	want := []string{"put 1 40.1.1.1:80   0 [20.1.1.10:80]", "mode snat 0"}
	if !reflect.DeepEqual(s.agent.asked, want) {
		t.Errorf("asked %q, want %q", s.agent.asked, want)
	}
	if !strings.Contains(out, "mode is snat") {
		t.Errorf("printed %q", out)
	}
}

func TestConsoleStopsAScriptAtTheFirstFault(t *testing.T) {
	s := newSession(t)
	code, _, errOut := s.run(t, "mode update snat\nmode update nat\nmode update dsr\n", "console", "--socket", "%SOCKET")
	if code != 2 || !strings.Contains(errOut, "line 2") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	if !reflect.DeepEqual(s.agent.asked, []string{"mode snat 0"}) {
		t.Errorf("asked %q", s.agent.asked)
	}
}

func TestConsoleHelpListsTheCommands(t *testing.T) {
	_, out, _ := newSession(t).run(t, "help\n", "console", "--socket", "%SOCKET")
	for _, want := range []string{"service", "mode", "neighbor", "unload", "exit"} {
		if !strings.Contains(out, want) {
			t.Errorf("help does not name %s: %s", want, out)
		}
	}
}

func TestConsoleCompletes(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"serv", []string{"service "}},
		{"service du", []string{"service dumpstate "}},
		{"service update --fro", []string{"service update --frontend="}},
		{"mode update s", []string{"mode update snat"}},
		{"ex", []string{"exit "}},
		{"nothing", nil},
	} {
		if got := (console{}).complete(c.text); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}

func TestConsoleSaysWhereTheCommandsAreListed(t *testing.T) {
	code, _, errOut := newSession(t).run(t, "status\nbogus\n", "console", "--socket", "%SOCKET")
	if code != 2 || !strings.Contains(errOut, `line 2: unknown command "bogus"; help lists them`) {
		t.Errorf("exit code %d: %s", code, errOut)
	}
}
