package main

import (
	"os"
	"strings"
)

// defaultPinDir is on the bpffs that systemd mounts.
const defaultPinDir = "/sys/fs/bpf/lbagent"

// defaultProfile is empty: profiles are Windows'.
const defaultProfile = ""

func defaultSocket() string { return "/run/lbagent.sock" }

// unitSocket is where packaging/systemd/lbagent.service has it.
const unitSocket = "/run/lbagent/lbagent.sock"

// clientSocket is the one of the agent that systemd runs where only that is there.
func clientSocket() string {
	if _, err := os.Lstat(defaultSocket()); err != nil {
		if _, err := os.Lstat(unitSocket); err == nil {
			return unitSocket
		}
	}
	return defaultSocket()
}

// defaultStateFile is beside the socket.
func defaultStateFile(socket string) (string, error) {
	return strings.TrimSuffix(socket, ".sock") + ".state.json", nil
}
