package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"l4lab/agent/testnet"
	"l4lab/lab/capture"
	"l4lab/lab/guest/relay"
)

// asProcess runs lbagent as labctl does, in a process.
func asProcess(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	cmd := command(argv[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	go func() {
		io.Copy(in, stdin)
		in.Close()
	}()
	return cmd.Wait()
}

func TestRelayConnectsToTheAgentsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		asked, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "you asked %s", asked)
	}()
	conn, err := relay.Dial(t.Context(), asProcess, "lbagent", relay.Target{Network: relay.Agent, Address: path})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello")
	conn.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "you asked hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestRelayIsRefusedAsADialIs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = relay.Dial(t.Context(), asProcess, "lbagent", relay.Target{Network: relay.TCP, Address: l.Addr().String()})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial = %v, want ECONNREFUSED", err)
	}
}

func TestRelayAndCaptureRefuseWrongCommandLines(t *testing.T) {
	for _, args := range [][]string{
		{"relay"}, {"relay", "tcp"}, {"relay", "icmp", "127.0.0.1:1"}, {"relay", "tcp", "a", "b"},
		{"capture"}, {"capture", "--interface", "lo", "--address", "127.0.0.1"}, {"capture", "--address", "203.0.113.9"},
	} {
		if code := run(t.Context(), args); code != exitUsage {
			t.Errorf("%v ends with %d, want %d", args, code, exitUsage)
		}
	}
}

func TestCaptureStreamsFramesAndLeavesOutTheConnectionThatItGoesThrough(t *testing.T) {
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.100/24")
	cmd := command("capture", "--address", "20.1.1.1")
	cmd.Env = append(cmd.Env, "SSH_CONNECTION=20.1.1.100 4000 20.1.1.1 22")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	pair.Balancer.Start(t, cmd)
	session, err := capture.Remote("lb eth0", stdout, stdin.Close)
	if err != nil {
		t.Fatal(err)
	}
	pair.Peer.Do(t, func() {
		for _, port := range []int{22, 23} { // nobody listens: a SYN and a RST each
			if conn, err := net.DialTimeout("tcp", fmt.Sprintf("20.1.1.1:%d", port), 5*time.Second); err == nil {
				conn.Close()
				t.Errorf("port %d is open", port)
			}
		}
	})
	ports := func(frames []capture.Frame) (seen []string) {
		for _, f := range frames {
			if len(f.Data) >= 38 && f.Data[12] == 8 && f.Data[13] == 0 && f.Data[23] == 6 {
				seen = append(seen, fmt.Sprint(f.Direction(), " ", binary.BigEndian.Uint16(f.Data[34:]), ">", binary.BigEndian.Uint16(f.Data[36:])))
			}
		}
		return seen
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := session.Wait(ctx, func(frames []capture.Frame) bool { return len(ports(frames)) >= 2 }); err != nil {
		t.Fatal(err)
	}
	result, err := session.Stop()
	if err != nil || result.Dropped != 0 || result.Frames != uint64(len(session.Frames())) {
		t.Errorf("Stop = %+v, %v with %d frames", result, err, len(session.Frames()))
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("lbagent capture ended with %v", err)
	}
	seen := ports(session.Frames())
	if len(seen) != 2 || !strings.HasPrefix(seen[0], "in ") || !strings.HasSuffix(seen[0], ">23") || !strings.HasPrefix(seen[1], "out 23>") {
		t.Errorf("it saw %q, want the SYN to port 23 and its answer", seen)
	}
}
