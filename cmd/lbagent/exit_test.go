package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"l4lab/agent/datapath"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		name, line string
		code       int
		says       string
	}{
		{"an unknown command", "bogus", 2, `unknown command "bogus"`},
		{"an unknown subcommand", "service bogus", 2, `unknown command "bogus"`},
		{"a group without a subcommand", "service", 2, "needs a subcommand"},
		{"an unknown flag", "status --bogus", 2, "--bogus"},
		{"a missing flag", "service update --id 1", 2, `"backends", "frontend"`},
		{"an argument too many", "status now", 2, "now"},
		{"a mode that is none", "mode update nat", 2, `"nat": wanted is dsr, snat`},
		{"no mode", "mode update", 2, "missing: wanted is dsr, snat"},
		{"two modes", "mode update dsr snat", 2, "2 arguments, wanted is dsr, snat"},
		{"an address that is none", "neighbor update x", 2, `"x" is no address`},
		{"no backends", "service update --id 1 --frontend 40.1.1.1:80 --backends= --socket %SOCKET", 2, "--backends: none given"},
		{"a SYN of UDP", "trace --proto udp --syn --from 1.1.1.1:1 --to 2.2.2.2:2 --socket %SOCKET", 2, "--syn is TCP's"},
		{"a page of an address that is none", "web --name be1 --address x --tcp :80", 2, `--address: "x" is no address`},
		{"an output format that is none", "status -o yaml", 2, "text or json"},
		{"an endpoint without a port", "service update --id 1 --frontend 40.1.1.1 --backends 20.1.1.10:80", 2, "--frontend"},
		{"a backend that is no endpoint", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80,x", 2, "--backends"},
		{"a weight that is too large", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80@1001", 2, "0 to 1000"},
		{"a weight that is none", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80@", 2, "--backends"},
		{"sources that are no prefix", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --sources 20.1.1.0", 2, "--sources"},
		{"a check of no kind", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --check-port 80", 2, "--check"},
		{"a backend that the service does not have", "service drain --id 1 --backend 20.1.1.99:80 --socket %SOCKET", 2, "no backend 20.1.1.99:80"},
		{"a state that is none", "service state asleep --id 1 --backend 20.1.1.10:80", 2, `"asleep": wanted is active, maintenance, draining`},
		{"a deadline that is past", "service drain --id 1 --backend 20.1.1.10:80 --deadline -1s --socket %SOCKET", 2, "--deadline"},
		{"an id that is too large", "service update --id 4294967296 --frontend 40.1.1.1:80 --backends 20.1.1.10:80", 2, "--id"},
		{"id zero", "service update --id 0 --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --socket %SOCKET", 2, "--id"},
		{"a service that is not there", "service delete --id 9 --socket %SOCKET", 2, "there is no service 9"},
		{"a conflict", "service update --id 13 --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --socket %SOCKET", 2, "frontend: is service 1's"},
		{"a failure of the agent", "service dumpstate --id 9 --socket %SOCKET", 1, "the map is full"},
		{"nobody there", "status --socket /nonexistent/agent.sock", 1, "lbagent serve"},
		{"serve without an interface", "serve", 2, "device"},
		{"serve with a mode that is none", "serve --device eth0 --bpf-lb-mode=nat", 2, "--mode"},
		{"serve with an address that is none", "serve --interface eth0 --address x", 2, "--address"},
		{"serve beside a socket that cannot be", "serve --device lo --socket /nonexistent/agent.sock", 1, "the directory /nonexistent is not there"},
		{"serve on an interface that is not there", "serve --device nosuch0 --socket %SOCKET.own", 2, "nosuch0"},
		{"serve on an interface that is no Ethernet", "serve --device lo --socket %SOCKET.own", 2, "Ethernet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, _, errOut := newSession(t).run(t, "", strings.Fields(c.line)...)
			if code != c.code || !strings.Contains(errOut, c.says) {
				t.Errorf("exit code %d, want %d; it says %q, want %q", code, c.code, errOut, c.says)
			}
		})
	}
}

func TestExitCodeOfMissingPrivilegesAndFeatures(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("attach: %w", datapath.ErrUnsupported),
		fmt.Errorf("load: %w", datapath.ErrPermission),
		fmt.Errorf("listen: %w", os.ErrPermission),
	} {
		if code := exitCode(err); code != 3 {
			t.Errorf("%v: exit code %d", err, code)
		}
	}
}
