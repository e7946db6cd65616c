package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	benchConnections = 8
	perTransfer      = time.Second
	benchPort        = 5001
)

// path is a way from the client to the backend, and by which of its routes to one
// another they go through the balancer.
type path struct {
	name        string
	to          string
	forth, back bool
	against     string
	bits        map[string][]float64 // by direction, Gbit/s of each round
}

// BenchmarkThroughput compares TCP through the VIP, in both modes, with the same path
// without balancing: to the backend's own address, by way of the balancer, whose XDP
// program is attached and passes each packet, so that the kernel routes it; at the
// backend the decapsulation program is attached and passes, too. DSR is measured
// against "routed", whose replies go straight to the client, as DSR's do; SNAT against
// "routed-both", whose replies are routed by the balancer as well. "direct" goes without
// the balancer: client, switch, backend. Eight connections send for a second in each direction and round.
func BenchmarkThroughput(b *testing.B) {
	needRoot(b)
	bin := binaries(b)
	b.Setenv("LABCTL_STATE_DIR", shortTemp(b))
	t := labOf("benchtp", 1)
	file := writeTopology(b, t)
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(command(bin, "up", file))
	b.Cleanup(func() { must(command(bin, "down", "--name", t.Name)) })
	inNode := func(node string, argv ...string) {
		b.Helper()
		if out, err := exec.Command("ip", append([]string{"netns", "exec", t.Name + "-" + node}, argv...)...).CombinedOutput(); err != nil {
			b.Fatalf("%s: %q: %v: %s", node, argv, err, out)
		}
	}
	backend := t.Nodes["be1"].Address.String()
	services := map[string]string{"dsr": "40.1.1.1", "snat": "40.1.1.2"}
	socket := filepath.Join(os.Getenv("LABCTL_STATE_DIR"), t.Name, "nodes", "lb", "agent.sock")
	for i, mode := range []string{"dsr", "snat"} {
		must(command(bin, "exec", "--name", t.Name, "lb", "--", "lbagent", "service", "update", "--id", fmt.Sprint(90+i), "--mode", mode,
			"--frontend", fmt.Sprintf("%s:%d", services[mode], benchPort), "--backends", fmt.Sprintf("%s:%d", backend, benchPort), "--socket", socket))
	}
	lb := t.Nodes["lb"].Address.String()
	inNode("client", "ip", "route", "replace", services["snat"]+"/32", "via", lb)
	inNode("lb", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0")

	listener, err := in(t.Name+"-be1", func() (net.Listener, error) { return net.Listen("tcp4", fmt.Sprintf(":%d", benchPort)) })
	must(err)
	defer listener.Close()
	go serveThroughput(listener)

	clientAddress := t.Client.Address.String()
	route := func(node, to string, through bool) {
		if through {
			inNode(node, "ip", "route", "replace", to+"/32", "via", lb)
		} else {
			inNode(node, "ip", "route", "replace", to+"/32", "dev", "eth0")
		}
	}
	paths := []*path{
		{name: "routed", to: backend, forth: true},
		{name: "dsr", to: services["dsr"], against: "routed"},
		{name: "routed-both", to: backend, forth: true, back: true},
		{name: "snat", to: services["snat"], against: "routed-both"},
		{name: "direct", to: backend, against: "routed"},
	}
	named := make(map[string]*path)
	for _, p := range paths {
		p.bits, named[p.name] = make(map[string][]float64), p
	}
	for b.Loop() {
		for _, p := range paths {
			route("client", backend, p.forth)
			route("be1", clientAddress, p.back)
			for _, direction := range []string{"up", "down"} {
				bits, err := throughput(t.Name+"-client", fmt.Sprintf("%s:%d", p.to, benchPort), direction)
				must(err)
				p.bits[direction] = append(p.bits[direction], bits)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, direction := range []string{"up", "down"} {
		for _, p := range paths {
			sorted := slices.Sorted(slices.Values(p.bits[direction]))
			b.ReportMetric(sorted[len(sorted)/2], fmt.Sprintf("%s-%s-Gbit/s", p.name, direction))
			if p.against != "" {
				b.ReportMetric(medianRatio(p.bits[direction], named[p.against].bits[direction]), fmt.Sprintf("%s/%s-%s", p.name, p.against, direction))
			}
		}
	}
}

func medianRatio(a, b []float64) float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	slices.Sort(r)
	return r[len(r)/2]
}

// serveThroughput takes all that a connection sends that begins with 'u', and sends
// to one that begins with 'd' until that is closed.
func serveThroughput(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var what [1]byte
			if _, err := io.ReadFull(conn, what[:]); err != nil {
				return
			}
			if what[0] == 'u' {
				drain(conn)
				return
			}
			fill(conn)
		}()
	}
}

func drain(conn net.Conn) (n int64) {
	buffer := make([]byte, 256<<10)
	for {
		got, err := conn.Read(buffer)
		n += int64(got)
		if err != nil {
			return n
		}
	}
}

func fill(conn net.Conn) (n int64) {
	buffer := make([]byte, 256<<10)
	for {
		sent, err := conn.Write(buffer)
		n += int64(sent)
		if err != nil {
			return n
		}
	}
}

// throughput is what all connections from a namespace carry together, in Gbit/s.
func throughput(namespace, to, direction string) (float64, error) {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range benchConnections {
		c, err := in(namespace, func() (net.Conn, error) { return net.DialTimeout("tcp4", to, askLimit) })
		if err != nil {
			return 0, err
		}
		conns = append(conns, c)
		if _, err := c.Write([]byte(direction[:1])); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	bytes := make([]int64, len(conns))
	var wg sync.WaitGroup
	for i, c := range conns {
		if err := c.SetDeadline(begin.Add(perTransfer)); err != nil {
			return 0, err
		}
		wg.Go(func() {
			if direction == "up" {
				bytes[i] = fill(c)
			} else {
				bytes[i] = drain(c)
			}
		})
	}
	wg.Wait()
	var sum int64
	for _, n := range bytes {
		if n == 0 {
			return 0, fmt.Errorf("%s %s: a connection carried nothing", to, direction)
		}
		sum += n
	}
	return float64(sum) * 8 / time.Since(begin).Seconds() / 1e9, nil
}
