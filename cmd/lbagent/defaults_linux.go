package main

import "strings"

// defaultPinDir is on the bpffs that systemd mounts.
const defaultPinDir = "/sys/fs/bpf/lbagent"

// defaultProfile is empty: profiles are Windows'.
const defaultProfile = ""

func defaultSocket() string { return "/run/lbagent.sock" }

// defaultStateFile is beside the socket.
func defaultStateFile(socket string) (string, error) {
	return strings.TrimSuffix(socket, ".sock") + ".state.json", nil
}
