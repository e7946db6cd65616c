// Package fabric makes network segments out of the Linux kernel's own parts:
// named network namespaces that bear a mark of whose they are, a bridge in a
// namespace of its own, and veth cables between them that are ready for native
// XDP at both ends. Nothing of the host's own network is touched, and what
// bears another mark, or none, is neither changed nor removed.
//
//	sw, err := fabric.EnsureOwn(ctx, root, "l4lb-switch", mark, settings)
//	h, err := sw.Netlink()
//	_, err = fabric.EnsureBridge(h, 1500)
//	port := fabric.Port{Name: "be1", MAC: mac, MTU: 1500}
//	err = fabric.Connect(h, node, port)
//	err = fabric.EnsurePort(sw, h, port)
//
// `ip netns exec NAME …` works in each namespace. The package is empty but on Linux.
package fabric
