#!/usr/bin/env bash
# Prints the figures of docs/benchmarks.md, all as ratios within this run: the
# machines that run it are shared, so absolute times only say the order of size.
# Needs root. FAST=1 leaves the lab of 200 backends out.
set -euo pipefail
cd "$(dirname "$0")/.."

if ((EUID != 0)); then
	echo "bench: needs root: it makes network namespaces and loads eBPF programs" >&2
	exit 3
fi
labs='backends='
if [[ ${FAST:-} == 1 ]]; then
	labs='backends=4$'
fi
echo "# $(date -u +%Y-%m-%d), $(uname -sr), $(nproc) processors, $(go version | cut -d' ' -f3)"
echo "# a packet through the programs, beside a bare 20-byte encapsulation (E)"
go test -run '^$' -bench 'Packets$' -benchtime 9x ./bpf
echo "# TCP through the VIP beside the same path without balancing (wanted: 0.8)"
go test -run '^$' -bench 'Throughput$' -benchtime 5x ./e2e
echo "# 10,000 services of 10 backends into the kernel's maps (wanted: 3 s), one changed (5 ms)"
go test -run '^$' -bench 'OnTheKernel' -benchtime 2x ./agent/service
echo "# the network of a lab beside plain ip -batch; ratio is labctl / ip -batch"
go test -run '^$' -bench "Network/$labs" -benchtime 7x ./e2e
echo "# labctl up to the first page through the VIP, down, memory of all node daemons"
go test -run '^$' -bench "Up/$labs" -benchtime 5x ./e2e
echo "# the lab on virtual machines, up to the first page (wanted, emulated: 120 s; from the kept set-up 15 s), a push to all (5 s), down (2 s), memory (400 MB)"
scripts/install-deps.sh qemu
go test -run '^$' -bench 'Machines$' -benchtime 2x -timeout 30m -v ./e2e | grep -v '^=== '
