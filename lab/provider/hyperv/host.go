package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/go-multierror"

	"l4lab/lab/guest/ssh"
	"l4lab/lab/powershell"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

// host is a lab's place on a Hyper-V host, as one topology describes it.
type host struct {
	*logon
	target Target
	// folder is the lab's on the host.
	folder string
}

// logon is what labctl keeps of a host for a lab, whatever the topology says of
// its machines: the runner and the connections.
type logon struct {
	p      *Provider
	verbs  scripts.Verbs
	runner powershell.Runner
	// mark is what everything bears.
	mark string

	// disks is held while virtual disks or the switch are worked on: Hyper-V does
	// not take two such operations at once. Machines are worked on side by side.
	disks sync.Mutex

	// clientHash is the hash of lbagent.exe, once it was read; its lock is the one
	// of the client's program.
	clientHash string

	mu       sync.Mutex
	ids      map[string]string // of machines, by node
	guests   map[string]*ssh.Guest
	jump     *ssh.Guest
	locks    map[string]*sync.Mutex
	forwards map[string]bool
	programs map[string]bool // by path: found or put there by this process
	pktmon   *recording
}

// host returns a lab's host, logged on to once. ErrNoHost when none is known;
// with make set it is started where it is one that can be.
func (p *Provider) host(ctx context.Context, lab provider.Lab, make bool) (*host, error) {
	target, err := p.o.Find(ctx, lab, make)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := lab.Dir + "\n" + describe(target.HyperV)
	l := p.hosts[key]
	if l == nil {
		runner, err := p.logOn(ctx, target.HyperV)
		if err != nil {
			return nil, err
		}
		l = &logon{
			p: p, verbs: p.verbs, runner: runner, mark: markOf(lab),
			ids: map[string]string{}, guests: map[string]*ssh.Guest{}, locks: map[string]*sync.Mutex{}, forwards: map[string]bool{},
			programs: map[string]bool{},
		}
		p.hosts[key] = l
	}
	return &host{logon: l, target: target, folder: join(target.Storage, lab.Topology.Name)}, nil
}

// describe names a host for people.
func describe(h topology.HyperV) string {
	if h.Local || h.Host == nil {
		return "this machine"
	}
	return net.JoinHostPort(h.Host.Address, strconv.Itoa(h.Host.Port))
}

// logOn returns a runner on the host.
func (p *Provider) logOn(ctx context.Context, h topology.HyperV) (powershell.Runner, error) {
	if h.Local {
		return p.o.OnHost(), nil
	}
	user, err := userOf(h.Host.Credentials)
	if err != nil {
		return nil, fmt.Errorf("log on to the Hyper-V host %s: %w", describe(h), err)
	}
	password, err := p.passwordOf(ctx, h.Host.Credentials, user+" on the Hyper-V host "+describe(h))
	if err != nil {
		return nil, err
	}
	runner, err := p.o.Connect(ctx, powershell.Endpoint{
		Host: h.Host.Address, Port: h.Host.Port, Plain: !h.Host.HTTPS, CAFile: h.Host.CAFile, Fingerprint: h.Host.Fingerprint,
		Auth: powershell.Auth(h.Host.Auth), User: user, Password: password,
	})
	if err != nil {
		return nil, fmt.Errorf("log on to the Hyper-V host %s as %s: %w", describe(h), user, err)
	}
	return runner, nil
}

func (h *logon) close(ctx context.Context) error {
	h.mu.Lock()
	guests, jump, rec := h.guests, h.jump, h.pktmon
	h.guests, h.jump, h.pktmon = map[string]*ssh.Guest{}, nil, nil
	h.mu.Unlock()
	var errs *multierror.Error
	if rec != nil {
		errs = multierror.Append(errs, rec.abandon(ctx))
	}
	for _, g := range guests {
		errs = multierror.Append(errs, g.Close())
	}
	if jump != nil {
		errs = multierror.Append(errs, jump.Close())
	}
	return multierror.Append(errs, h.runner.Close(ctx)).ErrorOrNil()
}

// forget drops a host whose lab is gone, with its connections.
func (p *Provider) forget(ctx context.Context, h *host) error {
	p.mu.Lock()
	for key, known := range p.hosts {
		if known == h.logon {
			delete(p.hosts, key)
		}
	}
	p.mu.Unlock()
	return h.close(ctx)
}

// errorf is an error about the host.
func (h *host) errorf(format string, args ...any) error {
	return fmt.Errorf("Hyper-V host %s: %w", describe(h.target.HyperV), fmt.Errorf(format, args...))
}

// foreign makes an error of the verbs' code "foreign" one that matches provider.ErrForeign.
func foreign(err error) error {
	var script *powershell.ScriptError
	if errors.As(err, &script) && script.Code == scripts.Foreign {
		return fmt.Errorf("%s %w: %w; use another --name, or remove it by hand", script.Target, provider.ErrForeign, err)
	}
	return err
}

// code says whether an error is a script's with one of these codes.
func code(err error, codes ...string) bool {
	var script *powershell.ScriptError
	if !errors.As(err, &script) {
		return false
	}
	for _, c := range codes {
		if script.Code == c {
			return true
		}
	}
	return false
}

// upload brings a local file to a path on the host, once for all who want it.
func (h *host) upload(ctx context.Context, source, path string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	return h.uploadFrom(ctx, f, path)
}

func (h *host) uploadFrom(ctx context.Context, source io.ReadSeeker, path string) error {
	lock := h.lock(path)
	lock.Lock()
	defer lock.Unlock()
	if err := transfer.Upload(ctx, h.runner, h.verbs.Verbs, source, path, nil); err != nil {
		return h.errorf("upload %s: %w", path, err)
	}
	return nil
}

// lock returns the lock of a name: who wants the same thing waits for it.
func (h *logon) lock(name string) *sync.Mutex {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.locks[name] == nil {
		h.locks[name] = &sync.Mutex{}
	}
	return h.locks[name]
}

// program brings lbagent for a system to the host and returns its path, which
// has its hash, so that a new one never meets a running old one.
func (h *host) program(ctx context.Context, source, hash string) (string, error) {
	if len(hash) < 12 {
		return "", fmt.Errorf("program %s has no hash", source)
	}
	path := join(h.folder, "bin", strings.ToLower(hash[:12]), base(source))
	// A test dials by dozens of connections at once: one of them looks.
	lock := h.lock("program " + path)
	lock.Lock()
	defer lock.Unlock()
	if h.has(path) {
		return path, nil
	}
	if err := h.upload(ctx, source, path); err != nil {
		return "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.programs == nil {
		h.programs = map[string]bool{}
	}
	h.programs[path] = true
	return path, nil
}

func (h *logon) has(program string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.programs[program]
}

// lost has a program looked for again: somebody removed it.
func (h *logon) lost(program string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.programs, program)
}

// observe looks at what bears the lab's mark.
func (h *host) observe(ctx context.Context, t topology.Topology) (scripts.LabObserveResult, error) {
	found, err := h.verbs.LabObserve.Run(ctx, h.runner, scripts.LabObserveParams{
		Mark: h.mark, Switch: switchName(t.Name), Names: append(vmNames(t), switchName(t.Name)), Folder: h.folder,
	})
	if err != nil {
		return found, h.errorf("look at lab %s: %w", t.Name, err)
	}
	// A node's name comes out of a machine's notes, which anybody on the host can
	// write, and becomes a part of paths, here and there.
	found.Machines = slices.DeleteFunc(found.Machines, func(vm scripts.VMFacts) bool {
		bad := !topology.IsName(vm.Node)
		if bad {
			found.Foreign = append(found.Foreign, "machine "+vm.Name)
		}
		return bad
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.ids)
	for _, vm := range found.Machines {
		h.ids[vm.Node] = vm.ID
	}
	return found, nil
}

// machine looks at one node's machine; nil when there is none.
func (h *host) machine(ctx context.Context, t topology.Topology, node string) (*scripts.VMFacts, error) {
	found, err := h.observe(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, vm := range found.Machines {
		if vm.Node == node {
			return &vm, nil
		}
	}
	return nil, nil
}

// id returns the id of a node's machine.
func (h *host) id(ctx context.Context, t topology.Topology, node string) (string, error) {
	h.mu.Lock()
	id := h.ids[node]
	h.mu.Unlock()
	if id != "" {
		return id, nil
	}
	vm, err := h.machine(ctx, t, node)
	if err == nil && vm == nil {
		err = h.errorf("there is no machine %s; `labctl up` makes it", vmName(t.Name, node))
	}
	if err != nil {
		return "", err
	}
	return vm.ID, nil
}

// remember notes a machine's id.
func (h *host) remember(node, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids[node] = id
}
