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
echo "# an established DSR flow beside a bare MAC swap and a bare 20-byte encapsulation"
go test -run '^$' -bench EstablishedDSRFlow ./bpf
echo "# the network of a lab beside plain ip -batch; ratio is labctl / ip -batch"
go test -run '^$' -bench "Network/$labs" -benchtime 7x ./e2e
echo "# labctl up to the first page through the VIP, down, memory of all node daemons"
go test -run '^$' -bench "Up/$labs" -benchtime 5x ./e2e
