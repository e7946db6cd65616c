package hvsim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/crypto/ssh"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

// Host is a simulated Hyper-V host that runs.
type Host struct {
	o        Options
	endpoint Endpoint
	log      *slog.Logger
	faults   faultList
	drives   drives
	store    *store
	guests   Guests

	contracts      powershell.Contracts
	verbs          map[string]handler
	guestContracts powershell.Contracts
	guestVerbs     guestscripts.Verbs
	// restart is the name of the guest's verb that restarts it.
	restart string

	memoryMB, diskBytes int64

	// Of these, recording and programs are guarded by the store's lock.
	recording *recording
	programs  map[string]int
	lifecycle sync.Mutex
	// machineLocks are taken by sending.
	machineLocks map[string]chan struct{}

	// life ends when the host does: what outlives a call lives by it.
	life     context.Context
	end      context.CancelFunc
	winrm    *wsman.Server
	jump     *jump
	forwards *forwards
	done     sync.WaitGroup
}

// Start starts a host, or starts one again that Dir remembers: its switches,
// machines, disks, checkpoints and port proxies are there, its machines are
// off, and routes are gone, as after a restart of a host that starts no machine
// by itself. ctx bounds the start alone; Close ends the host. Of one Dir, one
// host may run at a time.
func Start(ctx context.Context, o Options) (*Host, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Host{
		o: o, log: o.Log, faults: o.Faults, drives: drives{filepath.Join(o.Dir, "drives")}, guests: o.Guests,
		programs: map[string]int{}, machineLocks: map[string]chan struct{}{},
	}
	h.life, h.end = context.WithCancel(context.WithoutCancel(ctx))
	if h.guests == nil {
		h.guests = newNoNetwork(o.BootTime, h.diskDir)
	}
	if err := h.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the simulated host: %w", err), h.Close(ctx))
	}
	return h, nil
}

func (h *Host) start(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(h.drives.dir, "c"), 0o700); err != nil {
		return err
	}
	if err := h.learn(); err != nil {
		return err
	}
	s, err := openStore(h.o.Dir)
	if err != nil {
		return err
	}
	h.store = s
	id, err := openIdentity(h.o.Dir)
	if err != nil {
		return err
	}
	if err := h.measure(); err != nil {
		return err
	}
	doors, err := h.open(id)
	if err != nil {
		return err
	}
	if err := h.revive(ctx); err != nil {
		return errors.Join(err, doors.Close())
	}
	h.done.Go(func() {
		if err := h.winrm.ServeTLS(doors, id.certificate); err != nil && h.life.Err() == nil {
			h.log.Error("WinRM ended", "error", err)
		}
	})
	h.done.Go(h.jump.serve)
	return nil
}

// learn reads the contracts.
func (h *Host) learn() (err error) {
	verbs := scripts.New()
	if h.contracts, err = verbs.Contracts(); err != nil {
		return err
	}
	h.verbs = handlers(verbs)
	h.guestVerbs = guestscripts.New()
	h.restart = h.guestVerbs.Restart.Name
	h.guestContracts, err = h.guestVerbs.Contracts()
	return err
}

// measure places the images and says how much memory and disk there is.
func (h *Host) measure() error {
	h.memoryMB = min(h.o.MemoryMB, h.faults.left(FaultMemoryShort, h.o.MemoryMB))
	h.diskBytes = h.o.DiskMB << 20
	h.endpoint.Images = map[topology.OS]string{}
	for _, system := range h.o.Images {
		path := `C:\images\` + string(system) + ".vhdx"
		h.endpoint.Images[system] = path
		if system == topology.Linux && h.o.LinuxDisk != "" {
			if err := h.placeDisk(path); err != nil {
				return err
			}
			continue
		}
		if h.mustExist(path) == nil && !h.isLink(path) {
			continue
		}
		if err := h.writeDisk(path, diskFile{Image: 1, OS: system}); err != nil {
			return err
		}
	}
	if left := h.faults.left(FaultDiskFull, -1); left >= 0 {
		used, err := h.drives.used()
		if err != nil {
			return err
		}
		h.diskBytes = used + left<<20
	}
	return nil
}

// revive brings back what a host's restart brings back: its switches with their
// addresses, and its port proxies.
func (h *Host) revive(ctx context.Context) error {
	h.store.Lock()
	defer h.store.Unlock()
	for _, s := range h.store.Switches {
		if err := h.plugIn(ctx, s); err != nil {
			return err
		}
		n, err := s.network()
		if err != nil {
			return err
		}
		if err := h.guests.SetHost(ctx, n); err != nil {
			return fmt.Errorf("set up the host's adapter on switch %s: %w", s.Name, err)
		}
	}
	for _, row := range h.store.Proxies {
		// Windows keeps a row whose port is taken, and it does nothing.
		if err := h.forwards.start(row); err != nil {
			h.log.Warn("a port proxy has no port", "port", row.ListenPort, "error", err)
		}
	}
	return h.store.save()
}

// open prepares the host's two doors, WinRM, whose listener it returns, and
// SSH. Nobody is let in yet.
func (h *Host) open(id identity) (net.Listener, error) {
	first, err := id.password(h.o.Users)
	if err != nil {
		return nil, err
	}
	users := map[string]powershell.Password{first.User: powershell.Password(first.Password)}
	for _, u := range h.o.Users {
		users[u.User] = powershell.Password(u.Password)
	}
	h.forwards = &forwards{dial: h.guests.HostDial, ctx: h.life, open: map[portProxy]net.Listener{}}
	winrm, err := listen(h.life, h.o.ListenWinRM, h.store.WinRM)
	if err != nil {
		return nil, err
	}
	h.winrm = &wsman.Server{Users: users, Limits: h.o.Limits, Latency: h.o.Latency, Run: h.run}
	if len(h.faults) > 0 {
		h.winrm.Faults = h.wireFault
	}
	if err := h.openJump(id, first.User); err != nil {
		return nil, errors.Join(err, winrm.Close())
	}
	address := winrm.Addr().(*net.TCPAddr)
	h.store.WinRM, h.store.SSH = address.Port, h.endpoint.SSH.Port
	h.endpoint.Simulated = true
	h.endpoint.Host, h.endpoint.Port, h.endpoint.Fingerprint = address.IP.String(), address.Port, id.fingerprint
	h.endpoint.User, h.endpoint.Password, h.endpoint.PasswordFile = first.User, first.Password, id.passwordFile
	return winrm, nil
}

func (h *Host) openJump(id identity, user string) error {
	keys := []ssh.PublicKey{id.client}
	for _, line := range h.o.AuthorizedKeys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return fmt.Errorf("read an authorized key: %w", err)
		}
		keys = append(keys, key)
	}
	l, err := listen(h.life, h.o.ListenSSH, h.store.SSH)
	if err != nil {
		return err
	}
	address := l.Addr().(*net.TCPAddr)
	h.jump = &jump{dial: h.guests.HostDial, user: user, host: id.host, keys: keys, log: h.log, listen: l, ctx: h.life}
	h.endpoint.SSH = Jump{
		Host: address.IP.String(), Port: address.Port, User: user, KeyFile: id.clientFile,
		HostKey: string(trimNewline(ssh.MarshalAuthorizedKey(id.host.PublicKey()))),
	}
	return nil
}

func trimNewline(b []byte) []byte { return b[:len(b)-1] }

// listen listens at an address; where that leaves the port open, at the port
// that the host had when it is free.
func listen(ctx context.Context, address string, had int) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var l net.ListenConfig
	if port == "0" && had != 0 {
		if got, err := l.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(had))); err == nil {
			return got, nil
		}
	}
	return l.Listen(ctx, "tcp", address)
}

// Endpoint returns how the host is reached.
func (h *Host) Endpoint() Endpoint { return h.endpoint }

// Close ends everything: servers, machines, port proxies. What Dir holds stays.
func (h *Host) Close(ctx context.Context) error {
	var errs *multierror.Error
	if h.winrm != nil {
		errs = multierror.Append(errs, h.winrm.Close())
	}
	if h.store != nil {
		h.abandonCapture()
	}
	h.end()
	if h.jump != nil {
		h.jump.close()
	}
	if h.forwards != nil {
		h.forwards.close()
	}
	h.done.Wait()
	errs = multierror.Append(errs, h.guests.Close(ctx))
	return errs.ErrorOrNil()
}
