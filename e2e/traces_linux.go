package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	. "github.com/onsi/gomega"

	"l4lab/lab/provider/fabric"
)

// runNetns is where named namespaces lie.
const runNetns = "/run/netns"

// namespaces returns the names that begin with a lab's prefix; "" means all
// labs of this suite.
func (s *suite) namespaces(lab string) []string {
	prefix := s.name("")
	if lab != "" {
		prefix = lab + "-"
	}
	paths, _ := filepath.Glob(filepath.Join(runNetns, prefix+"*"))
	return append(paths, s.simulatedNamespaces(lab)...)
}

// simulatedNamespaces returns those of a lab's simulated host and its guests,
// which are known by their mark: their names begin with a hash.
func (s *suite) simulatedNamespaces(lab string) []string {
	paths, _ := filepath.Glob(filepath.Join(runNetns, "hv*"))
	var found []string
	for _, path := range paths {
		ns, err := fabric.Open(filepath.Base(path))
		if err != nil {
			continue // another test's, gone meanwhile
		}
		mark, err := ns.Mark()
		ns.Close()
		if err == nil && strings.HasPrefix(mark, "hvsim "+filepath.Join(s.state, lab)+"/") {
			found = append(found, path)
		}
	}
	return found
}

// processes returns the pids, with their command lines, of the programs that
// pids finds.
func (s *suite) processes(lab string) []string {
	var found []string
	for _, pid := range s.pids(lab) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if len(line) == 0 {
			continue // a zombie: it has ended
		}
		found = append(found, fmt.Sprintf("process %d: %s", pid, strings.ReplaceAll(string(line), "\x00", " ")))
	}
	return found
}

// pids are those of programs that lie in a lab's folder, and of its simulated
// host, that one's guests and virtual machines, which have its folder in their
// environment; "" means all labs of this suite.
func (s *suite) pids(lab string) []int {
	prefix := filepath.Join(s.state, lab) + "/"
	var found []int
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		target, err := os.Readlink(exe)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(exe)))
		if err != nil {
			continue
		}
		environment, _ := os.ReadFile(filepath.Join(filepath.Dir(exe), "environ"))
		if strings.HasPrefix(target, prefix) || strings.Contains(string(environment), "HVSIM="+prefix) ||
			strings.Contains(string(environment), fabric.NodeVariable+"="+prefix) {
			found = append(found, pid)
		}
	}
	return found
}

// mounts returns the mount points below a lab's folder; "" means all labs.
func (s *suite) mounts(lab string) []string {
	points, err := mountPoints(filepath.Join(s.state, lab) + "/")
	Expect(err).NotTo(HaveOccurred())
	for i, point := range points {
		points[i] = "mount " + point
	}
	return points
}

// mountPoints are those whose path has a prefix, in the order of their mounting.
func mountPoints(prefix string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], prefix) {
			found = append(found, fields[4])
		}
	}
	return found, nil
}

// folders returns the labs' folders.
func (s *suite) folders(lab string) []string {
	if lab == "" {
		lab = "*"
	}
	found, _ := filepath.Glob(filepath.Join(s.state, lab))
	return found
}

// leftovers is everything of a lab that exists; "" means of all of this suite's.
func (s *suite) leftovers(lab string) []string {
	return slices.Concat(s.namespaces(lab), s.processes(lab), s.mounts(lab), s.folders(lab))
}

// remove ends and removes what there is of all of this suite's labs but their
// folders, by its own eyes: labctl, when it is what is broken, does not see it.
func (s *suite) remove() error {
	var errs []error
	for _, pid := range s.pids("") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("end process %d: %w", pid, err))
		}
	}
	points, err := mountPoints(s.state + "/")
	errs = append(errs, err)
	for _, point := range slices.Backward(points) {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	for _, path := range s.namespaces("") {
		if err := netns.DeleteNamed(filepath.Base(path)); err != nil {
			errs = append(errs, fmt.Errorf("remove namespace %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// host is what of the host a lab must never change.
type host struct {
	Links, Addresses, Routes, Rules []string
	Settings                        map[string]string
}

// observeHost reads the host's own network.
func observeHost() host {
	h := host{Settings: map[string]string{}}
	links, err := netlink.LinkList()
	Expect(err).NotTo(HaveOccurred())
	for _, l := range links {
		a := l.Attrs()
		h.Links = append(h.Links, fmt.Sprintf("%s %s mtu %d %s master %d xdp %v", l.Type(), a.Name, a.MTU, a.Flags, a.MasterIndex, a.Xdp))
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	Expect(err).NotTo(HaveOccurred())
	for _, a := range addresses {
		h.Addresses = append(h.Addresses, fmt.Sprintf("%d %s", a.LinkIndex, a.IPNet))
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	Expect(err).NotTo(HaveOccurred())
	for _, r := range routes {
		h.Routes = append(h.Routes, r.String())
	}
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	Expect(err).NotTo(HaveOccurred())
	for _, r := range rules {
		h.Rules = append(h.Rules, r.String())
	}
	readSettings(h.Settings)
	return h
}

// readSettings reads the sysctls below net, without those that count or age by
// themselves.
func readSettings(settings map[string]string) {
	_ = filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_count") || strings.HasSuffix(path, "/mtu_expires") {
			return nil
		}
		if data, err := os.ReadFile(path); err == nil { // some are write-only
			settings[path] = string(data)
		}
		return nil
	})
}

// lastOf returns the end of a file.
func lastOf(path string, limit int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-limit):])
}
