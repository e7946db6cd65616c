package main

// defaultPinDir is on the bpffs that systemd mounts.
const defaultPinDir = "/sys/fs/bpf/lbagent"

// defaultProfile is empty: profiles are Windows'.
const defaultProfile = ""

func defaultSocket() string { return "/run/lbagent.sock" }
