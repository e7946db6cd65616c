package fabric

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"l4lab/lab/provider"
)

// runDir is where iproute2 keeps named namespaces: what lies there is what
// `ip netns exec NAME` finds.
const runDir = "/run/netns"

// Namespace is an open handle on a named network namespace.
type Namespace struct {
	Name string
	ns   netns.NsHandle
}

// Close closes the handle; the namespace stays.
func (n Namespace) Close() { n.ns.Close() }

// Do runs fn on a thread that is in the namespace. Sockets and processes made
// by fn belong to the namespace for good.
func (n Namespace) Do(fn func() error) error {
	runtime.LockOSThread()
	host, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("namespace %s: find the own namespace: %w", n.Name, err)
	}
	defer host.Close()
	if err := netns.Set(n.ns); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", n.Name, err)
	}
	err = fn()
	if back := netns.Set(host); back != nil {
		// The thread stays locked and so ends with its goroutine, rather than
		// run other code in the wrong namespace.
		return errors.Join(err, fmt.Errorf("leave namespace %s: %w", n.Name, back))
	}
	runtime.UnlockOSThread()
	return err
}

// Netlink opens a route socket in the namespace.
func (n Namespace) Netlink() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: open netlink: %w", n.Name, err)
	}
	return h, nil
}

// Setting is a sysctl: its path below /proc/sys/net, and its value.
type Setting struct{ Path, Value string }

// Create makes a named namespace. Its loopback bears the mark before
// the name is visible, so that a name without a mark is never ours.
func Create(name, mark string, settings []Setting) (Namespace, error) {
	path := filepath.Join(runDir, name)
	runtime.LockOSThread()
	host, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return Namespace{}, fmt.Errorf("create namespace %s: find the own namespace: %w", name, err)
	}
	defer host.Close()
	// Not netns.New's sibling NewNamed: that names before anything can be marked.
	ns, err := netns.New()
	if err != nil {
		runtime.UnlockOSThread()
		return Namespace{}, fmt.Errorf("create namespace %s: %w", name, err)
	}
	err = func() error {
		if err := markLoopback(mark); err != nil {
			return err
		}
		for _, s := range settings {
			if err := s.Write(); err != nil {
				return err
			}
		}
		return bindName(path)
	}()
	if back := netns.Set(host); back != nil {
		ns.Close()
		return Namespace{}, fmt.Errorf("leave namespace %s: %w", name, back)
	}
	runtime.UnlockOSThread()
	if err != nil {
		ns.Close()
		return Namespace{}, fmt.Errorf("create namespace %s: %w", name, err)
	}
	return Namespace{name, ns}, nil
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

// Write writes a sysctl of the current thread's namespace.
func (s Setting) Write() error {
	path := "/proc/sys/net/" + s.Path
	if err := os.WriteFile(path, []byte(s.Value), 0o644); err != nil {
		return fmt.Errorf("set %s to %q: %w", path, s.Value, err)
	}
	return nil
}

// Read returns what a sysctl of the current thread's namespace is now.
func (s Setting) Read() (string, error) {
	data, err := os.ReadFile("/proc/sys/net/" + s.Path)
	return strings.Join(strings.Fields(string(data)), " "), err
}

// Quiet returns the settings that every machine's namespace has.
func Quiet() []Setting {
	var s []Setting
	// Without addresses of its own IPv6 would only add noise to captures.
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		s = append(s, Setting{"ipv6/conf/all/disable_ipv6", "1"}, Setting{"ipv6/conf/default/disable_ipv6", "1"})
	}
	// The host's defaults, which a new namespace may inherit, must not decide.
	return append(s, Setting{"ipv4/conf/all/rp_filter", "0"}, Setting{"ipv4/conf/default/rp_filter", "0"})
}

// Unannounced returns the settings of a machine with VIPs on its loopback: it
// must neither announce them nor use them to ask for others.
func Unannounced() []Setting {
	return []Setting{{"ipv4/conf/all/arp_ignore", "1"}, {"ipv4/conf/all/arp_announce", "2"}}
}

// Open opens a namespace by name; fs.ErrNotExist when there is none, or when
// the name is left from before a reboot and names nothing.
func Open(name string) (Namespace, error) {
	path := filepath.Join(runDir, name)
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return Namespace{}, fmt.Errorf("open namespace %s: %w", name, err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &st); err != nil || st.Type != unix.NSFS_MAGIC {
		ns.Close()
		return Namespace{}, fmt.Errorf("open namespace %s: %s names no namespace: %w", name, path, fs.ErrNotExist)
	}
	return Namespace{name, ns}, nil
}

// Mark reads the mark on a namespace's loopback, "" when there is none.
func (n Namespace) Mark() (string, error) {
	h, err := n.Netlink()
	if err != nil {
		return "", err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return "", fmt.Errorf("namespace %s: find lo: %w", n.Name, err)
	}
	return lo.Attrs().Alias, nil
}

// OpenOwn opens a namespace that bears a mark: fs.ErrNotExist when there is
// none of that name, provider.ErrForeign when it bears another mark.
func OpenOwn(name, mark string) (Namespace, error) {
	ns, err := Open(name)
	if err != nil {
		return Namespace{}, err
	}
	found, err := ns.Mark()
	if err == nil && found != mark {
		err = fmt.Errorf("namespace %s %w (its mark is %q, expected %q); use another --name, or remove it with `ip netns delete %s`",
			name, provider.ErrForeign, found, mark, name)
	}
	if err != nil {
		ns.Close()
		return Namespace{}, err
	}
	return ns, nil
}

// EnsureOwn opens a namespace that bears a mark, or makes it; its settings are
// written anew. root is the folder whose lock guards /run/netns (EnsureRunDir).
func EnsureOwn(ctx context.Context, root, name, mark string, settings []Setting) (Namespace, error) {
	ns, err := OpenOwn(name, mark)
	if err == nil {
		return ns, ns.Do(func() error {
			for _, s := range settings {
				if err := s.Write(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Namespace{}, err
	}
	if err := RemoveEmptyName(name); err != nil {
		return Namespace{}, err
	}
	ns, err = Create(name, mark, settings)
	if !errors.Is(err, fs.ErrNotExist) {
		return ns, err
	}
	// Another lab went meanwhile, the last one, and took the folder with it.
	if err := EnsureRunDir(ctx, root); err != nil {
		return Namespace{}, err
	}
	return Create(name, mark, settings)
}

// Delete takes a namespace's name away. The namespace itself goes when its
// last process and socket do.
func Delete(name string) error {
	path := filepath.Join(runDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// RemoveEmptyName removes a file that names nothing: a labctl that was killed
// between making a name and binding it, or between unbinding and removing it,
// leaves one.
func RemoveEmptyName(name string) error {
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

// Names returns the namespaces whose names begin with PREFIX-.
func Names(prefix string) ([]string, error) {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var found []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix+"-") {
			found = append(found, e.Name())
		}
	}
	return found, nil
}
