package simhost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"l4lab/lab/guest/keys"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/state"
	"l4lab/topology"
)

// The limits of a daemon's start and end: it has namespaces to make and remove.
const (
	startLimit   = 30 * time.Second
	stopPatience = 20 * time.Second
)

// Hosts are the simulated hosts of labs.
type Hosts struct {
	o  Options
	mu sync.Mutex
}

// New returns the hosts; none is started yet.
func New(o Options) *Hosts { return &Hosts{o: o} }

// Find implements hyperv.Options.Find: the lab's host, started when make is set
// or when it was started before and is gone; hyperv.ErrNoHost when it never was.
func (s *Hosts) Find(ctx context.Context, lab provider.Lab, make bool) (hyperv.Target, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(lab.Dir, folder)
	d, err := read(dir)
	k, kindErr := s.kind(dir)
	if kindErr != nil {
		return hyperv.Target{}, kindErr
	}
	switch {
	case err == nil && d.Alive() && fabric.ProgramOf(d.PID) == s.o.Command[0]:
		return s.target(dir, d.Endpoint, k)
	case err == nil && d.Alive():
		// Another labctl's host knows another labctl's scripts. Its machines come
		// back off, as after a restart of a real one.
		if err := d.End(ctx, stopPatience); err != nil {
			return hyperv.Target{}, fmt.Errorf("end the simulated host of another labctl: %w", err)
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return hyperv.Target{}, err
	case errors.Is(err, fs.ErrNotExist) && !make && !isFolder(dir):
		return hyperv.Target{}, hyperv.ErrNoHost
	}
	if err := s.prepare(ctx, dir, &k, make); err != nil {
		return hyperv.Target{}, err
	}
	if d, err = s.start(ctx, dir, k); err != nil {
		return hyperv.Target{}, err
	}
	return s.target(dir, d.Endpoint, k)
}

// Release implements hyperv.Options.Release: the lab's host ends.
func (s *Hosts) Release(ctx context.Context, lab provider.Lab) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(lab.Dir, folder)
	d, err := read(dir)
	if err == nil {
		err = d.End(ctx, stopPatience)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end the simulated host: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the simulated host: %w", err)
	}
	return nil
}

// Local implements hyperv.Options.Local: what a simulated host needs of this machine.
func (s *Hosts) Local(lab provider.Lab) []provider.Requirement {
	simulated := provider.Requirement{Name: "host", OK: true, Found: "SIMULATED: no Windows and no Hyper-V are behind it"}
	root := provider.Requirement{Name: "privileges", OK: true, Fatal: true, Found: "root"}
	if os.Geteuid() != 0 {
		root.OK, root.Found, root.Remedy = false, "not root", "run it as root: sudo labctl …"
	}
	sshd := provider.Requirement{Name: "OpenSSH server", OK: true, Fatal: true, ForUp: true}
	var err error
	if sshd.Found, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
		sshd.OK, sshd.Found, sshd.Remedy = false, "no /usr/sbin/sshd", "apt-get install openssh-server; its own service may stay off"
	}
	k, err := s.kind(filepath.Join(lab.Dir, folder))
	switch {
	case err != nil:
		return []provider.Requirement{simulated, root, {Name: "guests", Fatal: true, ForUp: true, Found: err.Error()}}
	case k.Guests == QEMU: // which have SSH servers of their own
		return append([]provider.Requirement{simulated, root}, s.virtualMachines(k)...)
	}
	return []provider.Requirement{simulated, root, sshd}
}

func isFolder(dir string) bool {
	st, err := os.Stat(dir)
	return err == nil && st.IsDir()
}

func daemonFile(dir string) string { return filepath.Join(dir, "daemon.json") }

func read(dir string) (daemon, error) {
	var d daemon
	data, err := os.ReadFile(daemonFile(dir))
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		return d, fmt.Errorf("read which process is the simulated host: %w", err)
	}
	return d, nil
}

// start starts the daemon in a session of its own, its words in a log, and
// waits until it has said how it is reached.
func (s *Hosts) start(ctx context.Context, dir string, k kind) (daemon, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return daemon{}, fmt.Errorf("make the simulated host's folder: %w", err)
	}
	if err := endStray(ctx, dir); err != nil {
		return daemon{}, fmt.Errorf("end a simulated host that nobody remembers: %w", err)
	}
	endpoint, err := os.Create(filepath.Join(dir, "endpoint.json"))
	if err != nil {
		return daemon{}, err
	}
	defer endpoint.Close()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return daemon{}, err
	}
	defer log.Close()
	argv := append(append([]string{}, s.o.Command...), "--dir", filepath.Join(dir, "host"), "--guests", k.Guests, "--guests-name", guestsName(dir), "--output", "json")
	if k.Guests == QEMU {
		argv = append(argv, "--linux-image", k.LinuxDisk)
	}
	argv = append(argv, s.o.Flags...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = endpoint, log, dir
	// By this mark a daemon is found that was started and not written down.
	// The rest of labctl's environment, passwords of real hosts maybe, is not for
	// a daemon that outlives it.
	cmd.Env = []string{markVariable + "=" + dir}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "GODEBUG"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return daemon{}, fmt.Errorf("start the simulated host: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // reaps it, should it end before labctl does
	var d daemon
	d.Process, err = fabric.Identify(cmd.Process.Pid)
	if err == nil {
		d.Endpoint, err = awaitEndpoint(ctx, endpoint.Name(), ended)
	}
	var data []byte
	if err == nil {
		data, err = json.MarshalIndent(d, "", "  ")
	}
	if err == nil {
		err = state.WriteFile(daemonFile(dir), data, 0o600)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return d, fmt.Errorf("start the simulated host: %w; its log:\n%s", err, lastWords(log.Name()))
	}
	return d, nil
}

// guestsName keeps the namespaces of hosts apart.
func guestsName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "hv" + hex.EncodeToString(sum[:3])
}

// markVariable is in a daemon's environment: its folder.
const markVariable = "LABCTL_HVSIM"

func endStray(ctx context.Context, dir string) error {
	return fabric.EndAll(ctx, func(pid int) bool { return pid != os.Getpid() && fabric.Environment(pid, markVariable) == dir })
}

func awaitEndpoint(ctx context.Context, path string, ended <-chan error) (hvsim.Endpoint, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("it said nothing within %s", startLimit))
	defer cancel()
	for {
		var e hvsim.Endpoint
		data, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(bytes.TrimSpace(data), &e) == nil && e.Port != 0 {
			return e, nil
		}
		select {
		case err := <-ended:
			return e, fmt.Errorf("it ended at once (%v)", err)
		case <-ctx.Done():
			return e, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func lastWords(path string) string {
	const limit = 2000
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data[max(0, len(data)-limit):]))
}

// target says how the host is reached and what its machines are made from.
func (s *Hosts) target(dir string, e hvsim.Endpoint, k kind) (hyperv.Target, error) {
	private, err := os.ReadFile(e.SSH.KeyFile)
	if err != nil {
		return hyperv.Target{}, fmt.Errorf("read the key for the simulated host's SSH server: %w", err)
	}
	key, err := keys.Parse(private, "hvsim")
	if err != nil {
		return hyperv.Target{}, fmt.Errorf("read the key for the simulated host's SSH server: %w", err)
	}
	ebpf, err := placeholders(dir)
	if err != nil {
		return hyperv.Target{}, err
	}
	h := topology.HyperV{
		Host: &topology.HyperVHost{
			Address: e.Host, Port: e.Port, Fingerprint: e.Fingerprint,
			Credentials: topology.Credential{User: e.User, PasswordFile: e.PasswordFile},
		},
		Images: topology.HyperVImages{
			Linux: &topology.HyperVImage{Path: e.Images[topology.Linux]}, Windows: &topology.HyperVImage{Path: e.Images[topology.Windows]},
		},
		EBPF: ebpf,
	}
	t := hyperv.Target{
		HyperV: topology.FilledHyperV(h),
		Jump:   &hyperv.Jump{Address: net.JoinHostPort(e.SSH.Host, strconv.Itoa(e.SSH.Port)), User: e.SSH.User, HostKey: e.SSH.HostKey, Key: key},
	}
	if k.Guests == QEMU {
		s.slow(&t)
	}
	return t, nil
}

// placeholders are files that stand for eBPF for Windows' installer and for the
// compiled data path: simulated guests note that they have them, and run
// lbagent's Linux build, which brings its own.
func placeholders(dir string) (topology.EBPF, error) {
	var e topology.EBPF
	for name, path := range map[string]*string{"ebpf-for-windows.msi": &e.MSI, "lb.sys": nil, "decap_xdp.sys": nil} {
		file := filepath.Join(dir, "SIMULATED", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return e, err
		}
		if _, err := os.Stat(file); err != nil {
			if err := state.WriteFile(file, []byte("SIMULATED "+name+"\n"), 0o600); err != nil {
				return e, err
			}
		}
		if path != nil {
			*path = file
			continue
		}
		e.Programs = append(e.Programs, file)
	}
	slices.Sort(e.Programs)
	return e, nil
}
