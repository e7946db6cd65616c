package wsman_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
)

// password is ASCII: what encodes others in Basic is not settled (RFC 7617 section 2.1).
const password = `p4ss "w$rd'`

// service is a server on loopback whose commands are those of run.
type service struct {
	*wsman.Server
	address     string
	fingerprint string
	certificate []byte // DER
}

func serve(t testing.TB, plain bool, configure func(*wsman.Server)) service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &wsman.Server{Users: map[string]powershell.Password{"lab": password}, Run: run}
	if configure != nil {
		configure(s)
	}
	cert, fingerprint, err := wsman.SelfSigned("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		if plain {
			served <- s.Serve(l)
		} else {
			served <- s.ServeTLS(l, cert)
		}
	}()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return service{s, l.Addr().String(), fingerprint, cert.Certificate[0]}
}

// run is a cmd.exe that knows a few words.
func run(ctx context.Context, p wsman.Process) int {
	line := strings.Join(append([]string{p.CommandLine}, p.Arguments...), " ")
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "echo":
		_, _ = fmt.Fprintf(p.Stdout, "%s\r\n", rest)
	case "both":
		_, _ = io.WriteString(p.Stdout, "out: äß\r\n")
		_, _ = io.WriteString(p.Stderr, "err\r\n")
		return 3
	case "cat":
		_, _ = io.Copy(p.Stdout, p.Stdin)
	case "big":
		_, _ = p.Stdout.Write(make([]byte, 3<<20))
	case "hang":
		<-ctx.Done()
		_, _ = io.WriteString(p.Stdout, "interrupted")
		return -1073741510 // STATUS_CONTROL_C_EXIT
	default:
		_, _ = fmt.Fprintf(p.Stderr, "'%s' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n", word)
		return 9009
	}
	return 0
}

func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s until %s", what)
		}
	}
}

func split(t *testing.T, address string) (host string, port int) {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a.IP.String(), a.Port
}
