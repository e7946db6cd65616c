#!/usr/bin/env bash
# Runs everything: unit tests, data-path tests on the kernel, the end-to-end
# suite on network namespaces and, as root, its chapter on virtual machines. As root it installs what is missing, and a test
# that skips for want of root is a failure; without root it runs what needs
# none and ends with a list of what was left out.
#
#   scripts/test.sh [ARGUMENT OF go test…]     default: ./...
#
# The last line is "N passed, N failed, N skipped".
set -euo pipefail
cd "$(dirname "$0")/.."

notes=()
race=(-race)
if ((EUID == 0)); then
	groups=(build test)
	if (($# == 0)); then
		groups+=(qemu)
	fi
	scripts/install-deps.sh "${groups[@]}"
else
	missing=$(scripts/install-deps.sh build 2>&1) || {
		race=()
		notes+=(-note "the race detector: $missing")
	}
	missing=$(scripts/install-deps.sh test 2>&1) ||
		notes+=(-note "tests that use these tools: $missing")
fi
if ((${#race[@]})); then
	# The race detector is a C library; nothing else here needs cgo.
	export CGO_ENABLED=1
fi

# Tests build programs too, also where git refuses to speak of this folder.
git rev-parse --quiet --verify HEAD >/dev/null 2>&1 || export GOFLAGS="${GOFLAGS:-} -buildvcs=false"

pester=0
missing=$(scripts/pester.sh 2>&1 >/dev/null) || pester=$?
if ((pester == 3)); then
	notes+=(-note "the Pester tests of the PowerShell scripts: $missing")
elif ((pester != 0)); then
	echo "test: the Pester tests failed; see scripts/pester.sh" >&2
	exit 1
fi

make --no-print-directory build CGO_ENABLED=0
# Built beforehand: `go run` would turn every exit code into 1.
lines=$(mktemp -d)
trap 'rm -rf "$lines"' EXIT
CGO_ENABLED=0 go build -buildvcs=false -o "$lines/testlines" ./scripts/testlines

# The end-to-end suite is timing-bound and takes all processors by itself: it
# comes after the other packages, so that it shares them with no compiler.
run() { go test "${race[@]}" -count=1 -timeout "${limit:-20m}" -json "$@" </dev/null; }
tests() {
	local failed=0
	if (($# > 0)); then
		run "$@"
		return
	fi
	local e2e others
	e2e=$(go list ./e2e) && others=$(go list ./... | grep -vxF "$e2e") || return
	# shellcheck disable=SC2086 # packages have no blanks
	run $others || failed=$?
	run "$e2e" || failed=$?
	# A lab of five virtual machines takes all processors, too. The first run on a
	# machine builds their image.
	if ((EUID == 0)); then
		limit=40m run -run '^TestLabctl$' "$e2e" -args -provider qemu -labels 'qemu && !faults && !windows' || failed=$?
	fi
	return "$failed"
}
status=0
tests "$@" | "$lines/testlines" "${notes[@]}" || status=$?
exit "$status"
