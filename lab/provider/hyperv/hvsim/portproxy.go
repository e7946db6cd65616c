package hvsim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"

	"l4lab/lab/provider/hyperv/scripts"
)

// proxyFile is where the lab's folder remembers what was added for it.
const proxyFile = "portproxies.json"

// params is the row as the lab's folder remembers it.
func (p portProxy) params() scripts.PortProxyParams {
	return scripts.PortProxyParams{ListenAddress: p.ListenAddress, ListenPort: p.ListenPort, ConnectAddress: p.ConnectAddress, ConnectPort: p.ConnectPort}
}

func (p portProxy) String() string {
	return fmt.Sprintf("%s:%d -> %s:%d", p.ListenAddress, p.ListenPort, p.ConnectAddress, p.ConnectPort)
}

// proxyMemory is the file in the lab's folder.
type proxyMemory struct {
	Proxies []portProxy `json:"proxies"`
}

// listens says whether two rows take the same address and port.
func (p portProxy) listens(other portProxy) bool {
	return p.ListenAddress == other.ListenAddress && p.ListenPort == other.ListenPort
}

// proxy returns the row that is exactly this one. The caller holds the store's lock.
func (h *Host) proxy(p portProxy) *portProxy {
	i := slices.Index(h.store.Proxies, p)
	if i < 0 {
		return nil
	}
	return &h.store.Proxies[i]
}

func (h *Host) portProxyEnsure(_ context.Context, p scripts.PortProxyParams) (scripts.Changed, error) {
	row := portProxy{p.ListenAddress, p.ListenPort, p.ConnectAddress, p.ConnectPort}
	if row.ListenAddress == "" {
		row.ListenAddress = h.endpoint.Host
	}
	if err := row.check(); err != nil {
		return scripts.Changed{}, err
	}
	h.store.Lock()
	defer h.store.Unlock()
	remembered, err := h.rememberedProxies(p.Folder)
	if err != nil {
		return scripts.Changed{}, err
	}
	own := slices.IndexFunc(remembered, row.listens)
	taken := slices.IndexFunc(h.store.Proxies, row.listens)
	switch {
	case taken >= 0 && own < 0:
		return scripts.Changed{}, fail(scripts.Foreign, fmt.Sprint(p.ListenPort), "port %d of the host is forwarded already, and not for this lab", p.ListenPort)
	case taken >= 0 && h.store.Proxies[taken] == row:
		return scripts.Changed{}, nil
	}
	// The folder remembers first, so that what is cut off here is found again.
	remembered = append(slices.DeleteFunc(remembered, row.listens), row)
	if err := h.rememberProxies(p.Folder, remembered); err != nil {
		return scripts.Changed{}, err
	}
	if taken >= 0 {
		h.forwards.stop(h.store.Proxies[taken])
		h.store.Proxies = slices.Delete(h.store.Proxies, taken, taken+1)
	}
	if err := h.forwards.start(row); err != nil {
		return scripts.Changed{}, errors.Join(fail(idOperationFailed, fmt.Sprint(p.ListenPort), "port %d of the host cannot be forwarded: %v", p.ListenPort, err), h.store.save())
	}
	h.store.Proxies = append(h.store.Proxies, row)
	return changed(row.String()), h.store.save()
}

func (p portProxy) check() error {
	listen, err := netip.ParseAddr(p.ListenAddress)
	if err != nil || !listen.IsLoopback() {
		return fail(idInvalidParam, p.ListenAddress, "The parameter is incorrect: a simulated host listens on loopback alone, not at %q.", p.ListenAddress)
	}
	connect, err := netip.ParseAddr(p.ConnectAddress)
	if err != nil || !connect.Is4() {
		return fail(idInvalidParam, p.ConnectAddress, "The parameter is incorrect: %q is no IPv4 address.", p.ConnectAddress)
	}
	for _, port := range []int{p.ListenPort, p.ConnectPort} {
		if port < 1 || port > 65535 {
			return fail(idInvalidParam, fmt.Sprint(port), "The parameter is incorrect: port %d.", port)
		}
	}
	return nil
}

func (h *Host) portProxyRemove(_ context.Context, p scripts.PortProxyRemoveParams) (scripts.Removed, error) {
	h.store.Lock()
	defer h.store.Unlock()
	remembered, err := h.rememberedProxies(p.Folder)
	if err != nil || len(remembered) == 0 {
		return scripts.Removed{}, err
	}
	removed := false
	for _, row := range remembered {
		if h.proxy(row) == nil {
			continue
		}
		h.forwards.stop(row)
		h.store.Proxies = slices.DeleteFunc(h.store.Proxies, func(other portProxy) bool { return other == row })
		removed = true
	}
	if err := h.store.save(); err != nil {
		return scripts.Removed{}, err
	}
	return scripts.Removed{Removed: removed}, h.removeFile(join(p.Folder, proxyFile))
}

func (h *Host) rememberedProxies(folder string) ([]portProxy, error) {
	real, err := h.drives.real(join(folder, proxyFile))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(real)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m proxyMemory
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fail("ArgumentException", join(folder, proxyFile), "Invalid JSON: %v", err)
	}
	return m.Proxies, nil
}

func (h *Host) rememberProxies(folder string, rows []portProxy) error {
	text, err := json.Marshal(proxyMemory{rows})
	if err != nil {
		return err
	}
	return h.writeSmall(join(folder, proxyFile), text)
}

// forwards are the listeners of the port proxies. A row whose port another
// program of this machine has is kept, as netsh's table keeps it, and does nothing.
type forwards struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	ctx  context.Context
	mu   sync.Mutex
	open map[portProxy]net.Listener
	done sync.WaitGroup
}

func (f *forwards) start(p portProxy) error {
	var listen net.ListenConfig
	l, err := listen.Listen(f.ctx, "tcp", net.JoinHostPort(p.ListenAddress, strconv.Itoa(p.ListenPort)))
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.open[p] = l
	f.mu.Unlock()
	f.done.Go(func() { f.accept(l, net.JoinHostPort(p.ConnectAddress, strconv.Itoa(p.ConnectPort))) })
	return nil
}

func (f *forwards) accept(l net.Listener, to string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		f.done.Go(func() {
			defer from.Close()
			conn, err := f.dial(f.ctx, "tcp", to)
			if err != nil {
				return
			}
			relay(f.ctx, from, conn)
		})
	}
}

// stop ends a forward; its connections go on, as Windows' do.
func (f *forwards) stop(p portProxy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l, ok := f.open[p]; ok {
		l.Close()
		delete(f.open, p)
	}
}

func (f *forwards) close() {
	f.mu.Lock()
	for p, l := range f.open {
		l.Close()
		delete(f.open, p)
	}
	f.mu.Unlock()
	f.done.Wait()
}

// relay copies both ways until both ended or ctx did, and passes on the end of
// each way by itself: a client that has sent its request may still read.
func relay(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	defer a.Close()
	defer b.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // a broken connection ends the relay, whichever side it was
			if half, ok := way[0].(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			} else {
				way[0].Close()
			}
		})
	}
	both.Wait()
}
