package wsman_test

import (
	"bytes"
	_ "embed"
	"encoding/pem"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/masterzen/winrm"
)

// Clients of others, as they come.

func TestMasterzensClientRunsACommand(t *testing.T) {
	transports := map[string]func() winrm.Transporter{
		"basic over HTTPS":       nil,
		"NTLM over HTTPS":        func() winrm.Transporter { return &winrm.ClientNTLM{} },
		"NTLM sealed over HTTP":  func() winrm.Transporter { e, _ := winrm.NewEncryption("ntlm"); return e },
		"a wrong password":       nil,
		"a wrong password, NTLM": func() winrm.Transporter { return &winrm.ClientNTLM{} },
	}
	for name, transport := range transports {
		t.Run(name, func(t *testing.T) {
			plain := strings.HasSuffix(name, "over HTTP")
			s := serve(t, plain, nil)
			host, port := split(t, s.address)
			p := winrm.NewParameters("PT5S", "en-US", 153600)
			p.TransportDecorator = transport
			secret := password
			if strings.HasPrefix(name, "a wrong") {
				secret = "wrong"
			}
			c, err := winrm.NewClientWithParameters(winrm.NewEndpoint(host, port, !plain, true, nil, nil, nil, 10*time.Second), "lab", secret, p)
			if err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			code, err := c.RunWithContextWithInput(t.Context(), "both", &out, &errs, nil)
			if secret == "wrong" {
				if err == nil || !strings.Contains(err.Error(), "401") || s.Shells() != 0 {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || code != 3 || out.String() != "out: äß\r\n" || errs.String() != "err\r\n" {
				t.Errorf("exit code %d, %q, %q, %v", code, out.String(), errs.String(), err)
			}
			if plain {
				// Its encryption has one session for all requests: it cannot send
				// standard input while it receives output.
				return
			}
			stdout, _, code, err := c.RunWithContextWithString(t.Context(), "cat", "hello")
			if err != nil || code != 0 || stdout != "hello" {
				t.Errorf("with standard input: exit code %d, %q, %v", code, stdout, err)
			}
			until(t, "the shells are deleted", func() bool { return s.Shells() == 0 })
		})
	}
}

//go:embed testdata/winrm_client.py
var pythonClient []byte

const legacyOpenSSL = `openssl_conf = init
[init]
providers = providers
[providers]
default = on
legacy = on
[on]
activate = 1
`

// Debian's python3-winrm, which shares no code with anything here.
func TestPythonsWinRMRunsACommand(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's, which sees Debian's packages
	if out, err := exec.Command(python, "-c", "import winrm").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("no python3-winrm (scripts/install-deps.sh test installs it): %v: %s", err, out)
		}
		t.Fatalf("python3-winrm is missing, and CI must have it: %v: %s", err, out)
	}
	for name, plain := range map[string]bool{"basic": false, "ntlm": false, "ntlm sealed": true} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, plain, nil)
			scheme := "https"
			if plain {
				scheme = "http"
			}
			authority := t.TempDir() + "/ca.pem"
			if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate}), 0o600); err != nil {
				t.Fatal(err)
			}
			// NTLM stands on MD4, which OpenSSL 3 has in its legacy provider alone.
			openssl := t.TempDir() + "/openssl.cnf"
			if err := os.WriteFile(openssl, []byte(legacyOpenSSL), 0o600); err != nil {
				t.Fatal(err)
			}
			transport, _, _ := strings.Cut(name, " ")
			cmd := exec.CommandContext(t.Context(), python, "-", scheme+"://"+s.address+"/wsman", transport, authority)
			cmd.Env = append(os.Environ(), "WINRM_PASSWORD="+password, "OPENSSL_CONF="+openssl)
			cmd.Stdin = bytes.NewReader(pythonClient)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "all as expected") {
				t.Errorf("%v\n%s", err, out)
			}
			until(t, "the shells are deleted", func() bool { return s.Shells() == 0 })
		})
	}
}
