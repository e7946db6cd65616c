package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serve answers each connection on a port of the loopback.
func serve(t *testing.T, answer func(net.Conn)) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				answer(conn)
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func saying(text string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = c.Write([]byte(text))
		}
	}
}

func probeFor(t *testing.T, target Target, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return Direct{}.Probe(ctx, target)
}

func TestDirectHTTP(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	for _, c := range []struct {
		name   string
		answer func(net.Conn)
		status int
		want   string // "" means that it passes; ADDRESS stands for the backend
	}{
		{"the status that is wanted", saying("HTTP/1.1 200 OK\r\n\r\n"), 200, ""},
		{"any success", saying("HTTP/1.1 204 No Content\r\n\r\n"), 0, ""},
		{"a redirect, which is not followed", saying("HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n"), 0, ""},
		{"a redirect where 200 is wanted", saying("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n"), 200, "GET http://ADDRESS/healthz: status 301, wanted 200"},
		{"a failure", saying("HTTP/1.1 503 Service Unavailable\r\n\r\n"), 0, "GET http://ADDRESS/healthz: status 503, wanted 200 to 399"},
		{"an interim answer first", saying("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n"), 0, "GET http://ADDRESS/healthz: status 503, wanted 200 to 399"},
		{"an end before the status", saying("HTTP/1.1"), 0, "GET http://ADDRESS/healthz: closed after 8 bytes, before a status"},
		{"no HTTP", saying("220 mail ESMTP\r\n"), 0, `GET http://ADDRESS/healthz: the answer is no HTTP: it begins with "220 mail ESMTP\r\n"`},
		{"a body that never ends", func(c net.Conn) {
			saying("HTTP/1.1 200 OK\r\n\r\n")(c)
			for {
				if _, err := c.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, 0, ""},
		{"interim answers without end", func(c net.Conn) {
			for {
				if _, err := c.Write([]byte("HTTP/1.1 102 Processing\r\n\r\n")); err != nil {
					return
				}
			}
		}, 0, "GET http://ADDRESS/healthz: no status in the first 16384 bytes"},
		{"silence", func(net.Conn) { <-hang }, 0, "GET http://ADDRESS/healthz: no answer within "},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := serve(t, c.answer)
			err := probeFor(t, Target{HTTP: true, Path: "/healthz", Status: c.status, VIP: vip, Backend: address}, 200*time.Millisecond)
			checkError(t, err, strings.ReplaceAll(c.want, "ADDRESS", address.String()))
		})
	}
}

// checkError wants an error that begins with want and says something of the
// backend, or none when want is "".
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Error(err)
	case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
		t.Errorf("got %v, want %s", err, want)
	case errors.Is(err, ErrInconclusive):
		t.Errorf("%v says nothing of the backend", err)
	}
}

func TestDirectTCP(t *testing.T) {
	open := serve(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	checkError(t, probeFor(t, Target{Backend: open}, time.Second), "")

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().(*net.TCPAddr).AddrPort()
	listener.Close()
	err = probeFor(t, Target{Backend: closed}, time.Second)
	checkError(t, err, fmt.Sprintf("connect to %s: connection refused", closed))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v is no ECONNREFUSED", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := (Direct{}).Probe(ctx, Target{Backend: open}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a time of nothing: got %v", err)
	}
}

func TestTheRequestIsTheVIPs(t *testing.T) {
	requests := make(chan *http.Request, 1)
	address := serve(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err == nil {
			requests <- r
		}
	})
	for vip, host := range map[string]string{
		"40.1.1.1:80": "40.1.1.1", "40.1.1.1:8080": "40.1.1.1:8080", "[fd40::1]:80": "[fd40::1]", "[fd40::1]:81": "[fd40::1]:81",
	} {
		_ = probeFor(t, Target{HTTP: true, Path: "/a?b=c", VIP: netip.MustParseAddrPort(vip), Backend: address}, time.Second)
		r := <-requests
		if r.Host != host || r.Method != "GET" || r.RequestURI != "/a?b=c" || !r.Close {
			t.Errorf("%s: got %s %s of %s, close %t; want host %s", vip, r.Method, r.RequestURI, r.Host, r.Close, host)
		}
	}
}

// What a thousand checks leave on this machine is no TIME_WAIT and no goroutine.
func TestDirectChecksLeaveNothingBehind(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc/net/tcp")
	}
	address := serve(t, saying("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"))
	before := runtime.NumGoroutine()
	for i := range 50 {
		if err := probeFor(t, Target{HTTP: i%2 == 0, Path: "/", VIP: vip, Backend: address}, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	port := fmt.Sprintf(":%04X ", address.Port())
	deadline := time.Now().Add(5 * time.Second)
	for {
		text, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, line := range strings.Split(string(text), "\n") {
			if strings.Contains(line, port) && strings.Fields(line)[3] != "0A" {
				left = append(left, line)
			}
		}
		goroutines := runtime.NumGoroutine()
		if len(left) == 0 && goroutines <= before {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines were %d; connections left:\n%s", goroutines, before, strings.Join(left, "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestFaultsOfThisMachineAreMarked(t *testing.T) {
	ctx := t.Context()
	for errno, want := range map[syscall.Errno]bool{
		syscall.EMFILE: true, syscall.EADDRNOTAVAIL: true, syscall.EPERM: true,
		syscall.ECONNREFUSED: false, syscall.EHOSTUNREACH: false, syscall.ECONNRESET: false,
	} {
		err := explain(ctx, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)}, time.Now())
		if errors.Is(err, ErrInconclusive) != want || !errors.Is(err, errno) {
			t.Errorf("%v: got %v", errno, err)
		}
	}
}
