package hyperv

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"strings"

	"l4lab/lab/provider"
	"l4lab/topology"
)

// readyCheckpoint is a machine that is set up and has no role yet.
const readyCheckpoint = "l4lab-ready"

// markFile is the file that says whose a folder on the host is.
const markFile = "l4lab.mark"

// markOf returns what everything of a lab bears. The owner tells labs of one
// name from different folders and machines apart.
func markOf(lab provider.Lab) string {
	sum := sha256.Sum256([]byte(machineID() + "\n" + lab.Dir))
	return "l4lab lab=" + lab.Topology.Name + " owner=" + hex.EncodeToString(sum[:8])
}

// machineID tells this machine from others (machine-id(5)); its name where
// there is none.
func machineID() string {
	if id, err := os.ReadFile("/etc/machine-id"); err == nil && len(id) > 0 {
		return strings.TrimSpace(string(id))
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

func vmName(lab, node string) string { return lab + "-" + node }
func switchName(lab string) string   { return "l4lab-" + lab }

// vmNames are those of all nodes, for looking after foreign ones.
func vmNames(t topology.Topology) []string {
	names := []string{}
	for _, node := range t.NodeNames() {
		names = append(names, vmName(t.Name, node))
	}
	return names
}

// join puts a Windows path together.
func join(parts ...string) string { return strings.Join(parts, `\`) }

// base is the last part of a path of either system.
func base(path string) string { return path[strings.LastIndexAny(path, `\/`)+1:] }

// macOf returns a node's static MAC: 00155D, which is Microsoft's, and the
// last three bytes of its address.
func macOf(address netip.Addr) net.HardwareAddr {
	a := address.As4()
	return net.HardwareAddr{0x00, 0x15, 0x5d, a[1], a[2], a[3]}
}

// macDigits is a MAC as Hyper-V's cmdlets have it: 00155D01010A.
func macDigits(mac net.HardwareAddr) string {
	return strings.ToUpper(strings.ReplaceAll(mac.String(), ":", ""))
}

// parseMAC reads a MAC however Windows writes it.
func parseMAC(text string) (net.HardwareAddr, error) {
	digits := strings.NewReplacer("-", "", ":", "").Replace(text)
	mac, err := hex.DecodeString(digits)
	if err != nil || len(mac) != 6 {
		return nil, &net.AddrError{Err: "is no MAC address", Addr: text}
	}
	return mac, nil
}

// addressOf is macOf's inverse within a subnet; the zero Prefix for a MAC that
// the lab did not give.
func addressOf(mac net.HardwareAddr, subnet netip.Prefix) netip.Prefix {
	if len(mac) != 6 || mac[0] != 0 || mac[1] != 0x15 || mac[2] != 0x5d || !subnet.Addr().Is4() {
		return netip.Prefix{}
	}
	first := subnet.Addr().As4()[0]
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{first, mac[3], mac[4], mac[5]}), subnet.Bits())
}

func hashText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
