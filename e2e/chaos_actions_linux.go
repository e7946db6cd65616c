package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/e2e/chaos"
	"l4lab/topology"
)

// drainLimit is the deadline of a draining that has one.
const drainLimit = time.Second

// walkFlood is how many SYNs a burst has: a part of the balancer's ports for SNAT,
// of which those of the last minute are taken.
const walkFlood = 4000

// smallMTU is less than the lab's, and more than any request of the walk.
const smallMTU = 1300

// do carries an action out.
func (w *randomWalk) do(a chaos.Action, after chaos.Model) {
	GinkgoHelper()
	switch a.Kind {
	case chaos.Drain:
		w.operator(a, "drain")
	case chaos.DrainDeadline:
		w.operator(a, "drain", "--deadline", drainLimit.String())
	case chaos.Maintain:
		w.operator(a, "state", "maintenance")
	case chaos.Activate:
		w.activate(a, after)
	case chaos.Reweight:
		w.operator(a, "weight", "--weight", strconv.Itoa(a.Share))
	case chaos.KillWeb:
		kill(w.daemon(a.Backend, "web").PID, syscall.SIGKILL)
	case chaos.StartWeb:
		w.revive(a.Backend, "web")
	case chaos.KillNode:
		w.killNode(a.Backend)
	case chaos.Impair:
		w.impair(a)
	case chaos.Mend:
		w.mend(a)
	case chaos.StopAgent:
		kill(w.daemon("lb", "agent").PID, syscall.SIGTERM)
	case chaos.KillAgent:
		kill(w.daemon("lb", "agent").PID, syscall.SIGKILL)
	case chaos.StartAgent:
		w.revive("lb", "agent")
	case chaos.RestartAgent:
		kill(w.daemon("lb", "agent").PID, syscall.SIGTERM)
		w.revive("lb", "agent")
	case chaos.SwitchMode:
		w.switchMode(a)
	case chaos.Flood:
		w.flood(frontendOf(a.Service), w.flows, walkFlood)
		w.flows += walkFlood
	default:
		w.converge(a, after)
	}
}

// operator runs one of lbagent's commands about a backend of a service.
func (w *randomWalk) operator(a chaos.Action, verb string, more ...string) {
	GinkgoHelper()
	w.operate(append([]string{"service", verb, "--id", fmt.Sprint(a.Service), "--backend", w.address(a.Backend, a.Service)}, more...)...)
}

func (w *randomWalk) switchMode(a chaos.Action) {
	GinkgoHelper()
	args := []string{"mode", a.Mode, "--name", w.t.Name}
	if a.Service != 0 {
		args = append(args, "--service", fmt.Sprint(a.Service))
	}
	Expect(w.labctl(args...)).To(Succeeds())
}

// activate takes a backend back. One that was drained may have left by itself.
func (w *randomWalk) activate(a chaos.Action, after chaos.Model) {
	GinkgoHelper()
	ctx := GinkgoT().Context()
	service, err := w.agent.Service(ctx, a.Service)
	Expect(err).NotTo(HaveOccurred())
	for _, b := range service.Backends {
		if b.Address.String() == w.address(a.Backend, a.Service) {
			w.operator(a, "state", "active")
			return
		}
	}
	member, _ := after.Service(a.Service).Member(a.Backend)
	weight := uint16(member.Share)
	service.Backends = append(service.Backends, api.Backend{Address: w.backend(a.Backend, frontendOf(a.Service).Port()), Weight: &weight})
	_, err = w.agent.PutService(ctx, service)
	Expect(err).NotTo(HaveOccurred())
}

// killNode ends a backend as if its power was cut: no process, no cable, no name. Its
// namespace alone would stay while a connection of its kernel's is still to be closed.
func (w *randomWalk) killNode(backend string) {
	GinkgoHelper()
	kill(w.daemon(backend, "web").PID, syscall.SIGKILL)
	w.ipIn("switch", "link", "delete", backend)
	w.deleteNamespace(w.t.Name, backend)
}

func (w *randomWalk) impair(a chaos.Action) {
	GinkgoHelper()
	switch a.Fault {
	case chaos.PortDown:
		w.ipIn("switch", "link", "set", a.Backend, "down")
	case chaos.ForeignMAC:
		w.ipIn(a.Backend, "link", "set", "eth0", "address", "02:4c:00:00:00:99")
	case chaos.Loss:
		w.losing(a.Backend, a.Percent)
	case chaos.SmallMTU:
		w.ipIn(a.Backend, "link", "set", "eth0", "mtu", strconv.Itoa(smallMTU))
	case chaos.Forgotten:
		w.ipIn(a.Backend, "neigh", "delete", w.t.Client.Address.String(), "dev", "eth0")
	}
}

// mend takes a fault back, and nothing else.
func (w *randomWalk) mend(a chaos.Action) {
	GinkgoHelper()
	switch a.Fault {
	case chaos.PortDown:
		w.ipIn("switch", "link", "set", a.Backend, "up")
	case chaos.ForeignMAC:
		w.ipIn(a.Backend, "link", "set", "eth0", "address", macOf(w.t, a.Backend).String())
		// With its address, an interface loses its neighbours (neigh_changeaddr of the kernel).
		w.remember(a.Backend, w.t.LoadBalancer())
		w.remember(a.Backend, w.t.Client.Name)
	case chaos.Loss:
		w.unspoil()
	case chaos.SmallMTU:
		w.ipIn(a.Backend, "link", "set", "eth0", "mtu", strconv.Itoa(w.t.Switch.MTU))
	case chaos.Forgotten:
		w.remember(a.Backend, w.t.Client.Name)
	}
}

// remember gives a backend the MAC of another machine again.
func (w *randomWalk) remember(backend, machine string) {
	GinkgoHelper()
	address, _ := w.t.Address(machine)
	w.ipIn(backend, "neigh", "replace", address.String(), "dev", "eth0", "lladdr", macOf(w.t, machine).String(), "nud", "permanent")
}

// converge runs labctl up, of a killed one too, and sets the services' checks again.
func (w *randomWalk) converge(a chaos.Action, after chaos.Model) {
	GinkgoHelper()
	w.unspoil()
	w.t = w.topologyOf(after)
	file := writeTopology(GinkgoT(), w.t)
	if a.Kind == chaos.CutUp {
		first := w.suite.start("up", file, "-o", "json")
		first.after(a.Events)
		first.signal(syscall.SIGKILL)
		first.wait()
	}
	again := w.labctl("up", file)
	Expect(again).To(Succeeds(), again.String())
	w.check(after)
}

// check has the agent check the backends of all services: the topology has no word for it.
func (w *randomWalk) check(m chaos.Model) {
	GinkgoHelper()
	for _, s := range m.Services {
		if !s.InLab {
			continue
		}
		service, err := w.agent.Service(GinkgoT().Context(), s.ID)
		Expect(err).NotTo(HaveOccurred())
		check := walkCheck
		check.Via = "vip" // in SNAT, that is the backend's own address
		service.HealthCheck = &check
		_, err = w.agent.PutService(GinkgoT().Context(), service)
		Expect(err).NotTo(HaveOccurred())
	}
}

// endEverything leaves no connection. A kernel that still has one sends its end again, minutes
// later where its backend was cut off for long, and the other side answers that in the middle of the
// proof. So the client's come to their ends, and the backends lose their power. The balancer keeps
// its flows; labctl test keeps off their ports.
func (w *randomWalk) endEverything() {
	GinkgoHelper()
	Eventually(func() ([]string, error) { return unended(w.t.Name + "-" + w.t.Client.Name) }).
		WithTimeout(time.Minute).WithPolling(50*time.Millisecond).Should(BeEmpty(), "connections that the client's kernel still has")
	for _, b := range w.t.Backends() {
		w.killNode(b)
	}
}

// unended are the TCP connections of a namespace that may still send something, both ends in
// hexadecimal (proc_net_tcp(5)).
func unended(namespace string) (list []string, err error) {
	table, err := in(namespace, func() ([]byte, error) { return os.ReadFile("/proc/thread-self/net/tcp") })
	for line := range strings.Lines(string(table)) {
		const finWait2, timeWait, listen = "05", "06", "0A"
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[0] != "sl" && !slices.Contains([]string{finWait2, timeWait, listen}, fields[3]) {
			list = append(list, fmt.Sprintf("%s to %s, state %s", fields[1], fields[2], fields[3]))
		}
	}
	return list, err
}

// remembered is what labctl knows of a daemon that it started.
type rememberedDaemon struct {
	Argv []string `json:"argv"`
	PID  int      `json:"pid"`
}

func (w *randomWalk) daemon(node, name string) (d rememberedDaemon) {
	GinkgoHelper()
	data, err := os.ReadFile(w.record(node, name))
	Expect(err).NotTo(HaveOccurred())
	Expect(json.Unmarshal(data, &d)).To(Succeed())
	return d
}

// revive starts a daemon that ended again, as it was, as a supervisor of the node would: labctl
// up would do more. It is labctl's again.
func (w *randomWalk) revive(node, name string) {
	GinkgoHelper()
	d, dir := w.daemon(node, name), filepath.Dir(w.record(node, name))
	cmd, err := in(w.t.Name+"-"+node, func() (*exec.Cmd, error) {
		log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		defer log.Close()
		cmd := exec.Command(d.Argv[0], d.Argv[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd, cmd.Start()
	})
	Expect(err).NotTo(HaveOccurred())
	go func() { _ = cmd.Wait() }() // labctl, or the walk, ends it
	start, err := startOf(cmd.Process.Pid)
	Expect(err).NotTo(HaveOccurred())
	Expect(edit(w.record(node, name), func(m map[string]any) { m["pid"], m["start"] = cmd.Process.Pid, start })).To(Succeed())
}

// startOf returns when a process was started, field 22 of /proc/PID/stat (proc_pid_stat(5)).
func startOf(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields behind the name", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// macOf is the MAC that a machine's interface has in a lab that is whole.
func macOf(t topology.Topology, machine string) net.HardwareAddr {
	address, _ := t.Address(machine)
	b := address.As4()
	return net.HardwareAddr{0x02, 0x4c, b[0], b[1], b[2], b[3]}
}

// losing has a share of what a backend sends lost at its port. Which frames are
// lost is a matter of their number alone.
func (w *randomWalk) losing(backend string, percent int) {
	GinkgoHelper()
	count := memory()
	defer count.Close() // the program holds it
	w.spoilt[backend] = true
	w.portProgram(backend, &ebpf.ProgramSpec{Name: "lose", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, count.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(value, asm.R0, 0, asm.Word),
		asm.Add.Imm(value, 1),
		asm.StoreMem(asm.R0, 0, value, asm.Word),
		// Knuth's multiplicative hash: the upper bits of n * 2^32/phi.
		asm.LoadImm(scratch, 2654435769, asm.DWord),
		asm.Mul.Reg(value, scratch),
		asm.And.Imm(value, 0x7fffffff),
		asm.RSh.Imm(value, 16),
		asm.Mul.Imm(value, 100),
		asm.RSh.Imm(value, 15),
		asm.JGE.Imm(value, int32(percent), "pass"),
		asm.Mov.Imm(asm.R0, xdpDrop),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	}})
}

// unspoil takes all such programs off.
func (w *randomWalk) unspoil() {
	GinkgoHelper()
	for backend := range w.spoilt {
		w.portProgram(backend, nil)
		delete(w.spoilt, backend)
	}
}

// portProgram sets or, with nil, removes the program of a port.
func (w *randomWalk) portProgram(port string, spec *ebpf.ProgramSpec) {
	GinkgoHelper()
	fd := -1
	if spec != nil {
		program, err := ebpf.NewProgram(spec)
		Expect(err).NotTo(HaveOccurred())
		defer program.Close()
		fd = program.FD()
	}
	_, err := in(w.t.Name+"-switch", func() (struct{}, error) {
		link, err := netlink.LinkByName(port)
		if err == nil {
			err = netlink.LinkSetXdpFdWithFlags(link, fd, unix.XDP_FLAGS_DRV_MODE)
		}
		return struct{}{}, err
	})
	Expect(err).NotTo(HaveOccurred())
}
