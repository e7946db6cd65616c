package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"l4lab/lab/provider"
)

// runDir is where iproute2 keeps named namespaces: what lies there is what
// `ip netns exec NAME` finds.
const runDir = "/run/netns"

// runDirMarker is there while runDir is a mount that a lab made, whichever it
// was; like the mount it does not outlive a reboot.
const runDirMarker = "/run/.labctl-netns"

// namespace is an open handle on a named network namespace.
type namespace struct {
	name string
	ns   netns.NsHandle
}

func (n namespace) close() { n.ns.Close() }

// do runs fn on a thread that is in the namespace. Sockets and processes made
// by fn belong to the namespace for good.
func (n namespace) do(fn func() error) error {
	runtime.LockOSThread()
	host, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("namespace %s: find the own namespace: %w", n.name, err)
	}
	defer host.Close()
	if err := netns.Set(n.ns); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", n.name, err)
	}
	err = fn()
	if back := netns.Set(host); back != nil {
		// The thread stays locked and so ends with its goroutine, rather than
		// run other code in the wrong namespace.
		return errors.Join(err, fmt.Errorf("leave namespace %s: %w", n.name, back))
	}
	runtime.UnlockOSThread()
	return err
}

// netlink opens a route socket in the namespace.
func (n namespace) netlink() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: open netlink: %w", n.name, err)
	}
	return h, nil
}

// setting is one line of /proc/sys/net, without that prefix.
type setting struct{ path, value string }

// createNamespace makes a named namespace. Its loopback bears the mark before
// the name is visible, so that a name without a mark is never ours.
func createNamespace(name, mark string, settings []setting) (namespace, error) {
	path := filepath.Join(runDir, name)
	runtime.LockOSThread()
	host, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return namespace{}, fmt.Errorf("create namespace %s: find the own namespace: %w", name, err)
	}
	defer host.Close()
	// Not netns.New's sibling NewNamed: that names before anything can be marked.
	ns, err := netns.New()
	if err != nil {
		runtime.UnlockOSThread()
		return namespace{}, fmt.Errorf("create namespace %s: %w", name, err)
	}
	err = func() error {
		if err := markLoopback(mark); err != nil {
			return err
		}
		for _, s := range settings {
			if err := writeSetting(s); err != nil {
				return err
			}
		}
		return bindName(path)
	}()
	if back := netns.Set(host); back != nil {
		ns.Close()
		return namespace{}, fmt.Errorf("leave namespace %s: %w", name, back)
	}
	runtime.UnlockOSThread()
	if err != nil {
		ns.Close()
		return namespace{}, fmt.Errorf("create namespace %s: %w", name, err)
	}
	return namespace{name, ns}, nil
}

// markLoopback writes the mark on the current namespace's loopback and brings it up.
func markLoopback(mark string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.LinkSetAlias(lo, mark); err != nil {
		return fmt.Errorf("mark lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// bindName gives the current thread's namespace a name. The file is made with
// O_EXCL: an existing name is never taken over.
func bindName(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %w", path, provider.ErrForeign)
	}
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
		os.Remove(path)
		return fmt.Errorf("bind %s: %w", path, err)
	}
	return nil
}

// writeSetting writes a sysctl of the current thread's namespace.
func writeSetting(s setting) error {
	path := "/proc/sys/net/" + s.path
	if err := os.WriteFile(path, []byte(s.value), 0o644); err != nil {
		return fmt.Errorf("set %s to %q: %w", path, s.value, err)
	}
	return nil
}

// open opens a namespace by name; fs.ErrNotExist when there is none, or when
// the name is left from before a reboot and names nothing.
func open(name string) (namespace, error) {
	path := filepath.Join(runDir, name)
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return namespace{}, fmt.Errorf("open namespace %s: %w", name, err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &st); err != nil || st.Type != unix.NSFS_MAGIC {
		ns.Close()
		return namespace{}, fmt.Errorf("open namespace %s: %s names no namespace: %w", name, path, fs.ErrNotExist)
	}
	return namespace{name, ns}, nil
}

// markOf reads the mark on a namespace's loopback, "" when there is none.
func (n namespace) markOf() (string, error) {
	h, err := n.netlink()
	if err != nil {
		return "", err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return "", fmt.Errorf("namespace %s: find lo: %w", n.name, err)
	}
	return lo.Attrs().Alias, nil
}

// deleteName takes a namespace's name away. The namespace itself goes when its
// last process and socket do.
func deleteName(name string) error {
	path := filepath.Join(runDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// removeEmptyName removes a file that names nothing: a labctl that was killed
// between making a name and binding it, or between unbinding and removing it,
// leaves one.
func removeEmptyName(name string) error {
	path := filepath.Join(runDir, name)
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() || st.Size() > 0 {
		return nil // not there, or not what a name is made of
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the empty name %s: %w", path, err)
	}
	return nil
}

// names returns the namespaces whose names begin with a lab's prefix.
func names(lab string) ([]string, error) {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var found []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), lab+"-") {
			found = append(found, e.Name())
		}
	}
	return found, nil
}

// ensureRunDir prepares /run/netns as iproute2 does: a shared mount of its own,
// so that removing a name reaches every mount namespace that copied it. What
// this call made is noted for releaseRunDir.
func ensureRunDir(ctx context.Context, root string) error {
	unlock, err := lockRoot(ctx, root)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", runDir, err)
	}
	err = unix.Mount("", runDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("share %s: %w", runDir, err)
	}
	if err := os.WriteFile(runDirMarker, nil, 0o600); err != nil {
		return fmt.Errorf("note that %s is ours: %w", runDir, err)
	}
	if err := unix.Mount(runDir, runDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s to itself: %w", runDir, err)
	}
	if err := unix.Mount("", runDir, "none", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share %s: %w", runDir, err)
	}
	return nil
}

// releaseRunDir takes back what ensureRunDir made, once nobody's namespace is
// left in it.
func releaseRunDir(ctx context.Context, root string) error {
	if _, err := os.Stat(runDirMarker); err != nil {
		return nil
	}
	unlock, err := lockRoot(ctx, root)
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(runDir)
	if err != nil || len(entries) > 0 {
		return nil
	}
	if err := unix.Unmount(runDir, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil // in use: somebody is about to make a namespace
	}
	if err := os.Remove(runDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.Remove(runDirMarker)
}

// lockLimit bounds waiting for another lab's up or down to have made or released
// /run/netns, which takes it microseconds.
const lockLimit = 5 * time.Second

// lockRoot takes an exclusive lock on the folder of all labs, which is root's
// own. A lock on the folder itself leaves no file.
func lockRoot(ctx context.Context, dir string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lockLimit, fmt.Errorf("still locked after %s", lockLimit))
	defer cancel()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}
