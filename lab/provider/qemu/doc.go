// Package qemu provides labs of real virtual machines on one Linux machine: every
// node has a kernel, an init system and a disk of its own, boots and reboots, and is
// set up over SSH like any other server.
//
// The switch and the client are those of provider netns, a bridge and a network
// namespace; a node's place on the switch is a tap. QEMU runs in the switch's
// namespace, and labctl speaks to the guests from the client's: nothing of the
// host's network is touched, and labs share nothing.
//
// A node's folder in the lab's holds its disk (an overlay on an image, which stays
// as it is), the seed disc that tells it who it is, and what package vm keeps:
// the process, its QMP socket, the console. A node that ended is started again from
// its disk, by `labctl up`; one that was made from something else is made anew.
//
// Nodes that run Windows are Linux guests that stand in for it, with XDP where Linux
// nodes have TC; or real ones, where the topology names an image of Windows. Those get
// devices that Windows has drivers for and a disc that has them serve WinRM (package
// answer), and are set up by the verbs of package role/windows. No Windows has been at
// hand: what is said of it there is in docs/windows.md, with how to check it.
package qemu

// Name is the provider's name in --provider.
const Name = "qemu"
