package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"l4lab/bpf"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
)

// Probes ask the kernel what it can do. They sit behind an interface so that
// a kernel without XDP can be tested on one that has it. A nil error means yes.
type Probes interface {
	Kernel() string
	Privileges() error
	Namespaces() error
	XDP() error
	SchedCLS() error
	Links() error
}

// Check implements provider.Provider.
func (p *namespaces) Check(context.Context, provider.Lab) []provider.Requirement {
	kernel := p.probes.Kernel()
	requirements := []provider.Requirement{{Name: "kernel", OK: true, Found: kernel}}
	for _, r := range []struct {
		name, remedy string
		probe        func() error
	}{
		{"privileges", "run it as root: sudo labctl …", p.probes.Privileges},
		{"network namespaces", "use a kernel with CONFIG_NET_NS; in a container, run it privileged", p.probes.Namespaces},
		{"veth and bridge", "load the modules: modprobe veth bridge", p.probes.Links},
		{"XDP", "use a kernel with CONFIG_BPF_SYSCALL, 5.15 or later; in a container, run it privileged", p.probes.XDP},
		{"TC programs", "use a kernel with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS (or 6.6 and later)", p.probes.SchedCLS},
	} {
		q := provider.Requirement{Name: r.name, OK: true, Fatal: true, Found: "works"}
		if err := r.probe(); err != nil {
			q.OK, q.Found, q.Remedy = false, err.Error(), r.remedy
		}
		requirements = append(requirements, q)
		if r.name == "privileges" && !q.OK {
			break // without them every further probe would fail for that reason alone
		}
	}
	return requirements
}

// kernelProbes asks the running kernel.
type kernelProbes struct{}

func (kernelProbes) Kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown: " + err.Error()
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}

func (kernelProbes) Privileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	var missing []string
	for _, c := range []struct {
		name string
		bit  uint
	}{{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}, {"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}, {"CAP_NET_RAW", unix.CAP_NET_RAW}} {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not root: %s missing", strings.Join(missing, ", "))
	}
	return nil
}

func (kernelProbes) Namespaces() error { return inScratch(func() error { return nil }) }

func (kernelProbes) Links() error {
	return inScratch(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fabric.BridgeName
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("create a bridge: %w", err)
		}
		attrs.Name = "probe"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fabric.InterfaceName}); err != nil {
			return fmt.Errorf("create a veth: %w", err)
		}
		return nil
	})
}

// inScratch runs fn in a namespace that goes with its thread.
func inScratch(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here, with its namespace
		ns, err := netns.New()
		if err != nil {
			result <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		defer ns.Close()
		result <- fn()
	}()
	return <-result
}

func (kernelProbes) XDP() error { return loads(bpf.PassProgram()) }

func (kernelProbes) SchedCLS() error {
	return loads(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
}

func loads(spec *ebpf.ProgramSpec) error {
	program, err := ebpf.NewProgram(spec)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("the kernel does not let this process load a program: %w", err)
	}
	if err != nil {
		return fmt.Errorf("load a program of type %s: %w", spec.Type, err)
	}
	return program.Close()
}
