package e2e

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// in calls fn on a thread that is in a named namespace. The thread ends with
// it, rather than run other code there.
func in[T any](namespace string, fn func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		var o outcome
		ns, err := netns.GetFromName(namespace)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err != nil {
			o.err = fmt.Errorf("enter namespace %s: %w", namespace, err)
		} else {
			o.value, o.err = fn()
		}
		done <- o
	}()
	o := <-done
	return o.value, o.err
}

// withLink gives fn a link of a namespace and a netlink socket there.
func withLink(namespace, name string, fn func(h *netlink.Handle, link netlink.Link) error) {
	GinkgoHelper()
	ns, err := netns.GetFromName(namespace)
	Expect(err).NotTo(HaveOccurred())
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	Expect(err).NotTo(HaveOccurred())
	defer h.Close()
	link, err := h.LinkByName(name)
	Expect(err).NotTo(HaveOccurred())
	Expect(fn(h, link)).To(Succeed())
}
