package hvsim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"l4lab/lab/provider/hyperv/scripts"
)

// echoServer answers each line with itself, at a port of loopback.
func echoServer(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// askEcho sends a line through a connection and returns what comes back.
func askEcho(c net.Conn, line string) (string, error) {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

func dialPort(port int) (net.Conn, error) {
	return net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

func forwardTo(listen, connect int) scripts.PortProxyParams {
	return scripts.PortProxyParams{ListenAddress: "", ListenPort: listen, ConnectAddress: "127.0.0.1", ConnectPort: connect, Folder: folder}
}

func TestAPortProxyForwardsUntilItIsRemoved(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	p := forwardTo(freePort(t), echoServer(t))
	if r := must(b, b.v.PortProxyEnsure, p); !r.Changed || !strings.Contains(r.What[0], " -> 127.0.0.1:") {
		t.Errorf("got %+v", r)
	}
	if r := must(b, b.v.PortProxyEnsure, p); r.Changed {
		t.Errorf("the second time: %+v", r)
	}
	c, err := dialPort(p.ListenPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := askEcho(c, "hello"); got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	if got := b.observe().PortProxies; len(got) != 1 || got[0].ListenPort != p.ListenPort || got[0].ListenAddress != "127.0.0.1" {
		t.Errorf("observed %+v", got)
	}
	// The same port to elsewhere is changed, as it is the lab's own.
	other := forwardTo(p.ListenPort, echoServer(t))
	if r := must(b, b.v.PortProxyEnsure, other); !r.Changed {
		t.Error("it was not led elsewhere")
	}
	remove := scripts.PortProxyRemoveParams{Folder: folder}
	if r := must(b, b.v.PortProxyRemove, remove); !r.Removed {
		t.Error("it was not removed")
	}
	if r := must(b, b.v.PortProxyRemove, remove); r.Removed {
		t.Error("it was removed twice")
	}
	if c, err := dialPort(p.ListenPort); err == nil {
		c.Close()
		t.Error("the port still answers")
	}
	if _, err := os.Stat(must2(b.h.drives.real(join(folder, proxyFile)))); err == nil {
		t.Error("the folder still remembers")
	}
}

func TestPortProxiesOfOthersAreLeftAlone(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	p := forwardTo(freePort(t), echoServer(t))
	p.Folder = `C:\l4lab\other`
	must(b, b.v.PortProxyEnsure, p)
	q := p
	q.Folder = folder
	refuse(b, b.v.PortProxyEnsure, q, "foreign", strconv.Itoa(p.ListenPort))
	if r := must(b, b.v.PortProxyRemove, scripts.PortProxyRemoveParams{Folder: folder}); r.Removed {
		t.Error("another lab's was removed")
	}
	if c, err := dialPort(p.ListenPort); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

func TestPortProxiesThatCannotBeAreRefused(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	port := freePort(t)
	for name, change := range map[string]func(*scripts.PortProxyParams){
		"port 0":                     func(p *scripts.PortProxyParams) { p.ListenPort = 0 },
		"a port above 65535":         func(p *scripts.PortProxyParams) { p.ConnectPort = 65536 },
		"an address beyond loopback": func(p *scripts.PortProxyParams) { p.ListenAddress = "0.0.0.0" },
		"a name to connect to":       func(p *scripts.PortProxyParams) { p.ConnectAddress = "be1" },
		"an IPv6 address in v4tov4":  func(p *scripts.PortProxyParams) { p.ConnectAddress = "::1" },
	} {
		t.Run(name, func(t *testing.T) {
			p := forwardTo(port, port)
			change(&p)
			refuse(b, b.v.PortProxyEnsure, p, "InvalidParameter")
		})
	}
	taken := echoServer(t)
	refuse(b, b.v.PortProxyEnsure, forwardTo(taken, port), "OperationFailed", strconv.Itoa(taken))
	if got := b.observe().PortProxies; len(got) != 0 {
		t.Errorf("a refusal left %+v", got)
	}
}

func TestOneCaptureAtATime(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	vm := b.machine("lb", linuxImage)
	start := scripts.CaptureStartParams{Mark: mark, Switch: lan, IDs: []string{vm.ID}, Host: true, Folder: folder}
	stop := scripts.CaptureStopParams{Mark: mark, Folder: folder}
	refuse(b, b.v.CaptureStop, stop, "notFound")
	refuse(b, b.v.CaptureStart, start, "notFound", "off")
	b.start(vm.ID)
	must(b, b.v.CaptureStart, start)
	refuse(b, b.v.CaptureStart, start, "inUse")
	refuse(b, b.v.CaptureStop, scripts.CaptureStopParams{Mark: others, Folder: folder}, "notFound")
	r := must(b, b.v.CaptureStop, stop)
	want := []scripts.CaptureFile{{ID: vm.ID, Path: folder + `\captures\` + vm.ID + ".pcapng"}, {ID: "", Path: folder + `\captures\host.pcapng`}}
	if !slices.Equal(r.Files, want) {
		t.Errorf("got %+v", r.Files)
	}
	for _, f := range r.Files {
		if content := b.download(f.Path); len(content) < 28 || string(content[:4]) != "\x0a\x0d\x0d\x0a" {
			t.Errorf("%s is no pcapng: %x", f.Path, content)
		}
	}
	must(b, b.v.CaptureStart, start)
	if err := b.h.Close(context.Background()); err != nil {
		t.Errorf("with a capture that nobody ended: %v", err)
	}
}

func TestCapturesOfWhatIsNotTheLabsAreRefused(t *testing.T) {
	b := newBench(t, Options{})
	b.lay()
	foreign, err := b.h.PlaceMachine("other", "by hand")
	if err != nil {
		t.Fatal(err)
	}
	refuse(b, b.v.CaptureStart, scripts.CaptureStartParams{Mark: mark, Switch: lan, IDs: []string{foreign.ID}, Host: false, Folder: folder}, "notFound")
	refuse(b, b.v.CaptureStart, scripts.CaptureStartParams{Mark: mark, Switch: "other", IDs: nil, Host: true, Folder: folder}, "notFound")
}
