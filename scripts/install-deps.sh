#!/usr/bin/env bash
# Installs, with apt-get, what a job needs and this machine lacks; does nothing
# when nothing is missing.
#
#   scripts/install-deps.sh GROUP…
#
#   build     gcc and the C library's headers: `go test -race` needs cgo
#   test      iproute2 and curl: the end-to-end suite uses them to look at the lab
#             as a user would; openssh-server: what the guests' tests log in at,
#             and sudo, which simulated Linux guests use; python3-winrm, a WinRM
#             client that is not ours, tries the simulated host; node and npm
#             run the grammar that the PowerShell scripts are checked with
#             and the browser, which the demo's report takes its pictures with;
#             qemu-system-x86 and qemu-utils, which virtual machines run on
#   qemu      QEMU, what builds the image that its machines start from, and what
#             makes of it a disk that firmware boots, with that firmware
#   browser   chromium-headless-shell, Debian's smallest Chromium
#   generate  clang-19 and llvm-19, which compile the eBPF programs
#
# Exit code 2: unknown group. 3: something is missing and cannot be installed
# from here (not root, or no apt); the message says what to install.
set -euo pipefail

# A package is missing when what it brings is: on a machine without dpkg the
# same thing may come from elsewhere.
packages=()
want() { # want PACKAGE COMMAND-OR-FILE
	if [[ $2 == /* ]]; then
		[[ -e $2 ]] || packages+=("$1")
	else
		command -v "$2" >/dev/null || packages+=("$1")
	fi
}

# ip and tc are in /usr/sbin, which is not in every user's PATH.
PATH=$PATH:/usr/sbin:/sbin

for group in "$@"; do
	case $group in
	build)
		want gcc gcc
		want libc6-dev /usr/include/stdio.h
		;;
	test)
		want iproute2 ip
		want curl curl
		want python3-winrm /usr/lib/python3/dist-packages/winrm/__init__.py
		want openssh-server /usr/sbin/sshd
		want nodejs node
		want npm npm
		want sudo sudo
		want chromium-headless-shell chromium-headless-shell
		want qemu-system-x86 qemu-system-x86_64
		want qemu-utils qemu-img
		;;
	qemu)
		want qemu-system-x86 qemu-system-x86_64
		want qemu-utils qemu-img
		want mmdebstrap mmdebstrap
		want busybox-static /usr/share/doc/busybox-static
		want e2fsprogs mke2fs
		want ovmf /usr/share/OVMF
		want systemd-boot-efi /usr/lib/systemd/boot/efi/linuxx64.efi.stub
		want mtools mcopy
		want fdisk sfdisk
		want binutils objcopy
		;;
	browser)
		want chromium-headless-shell chromium-headless-shell
		;;
	generate)
		want clang-19 clang-19
		want llvm-19 llvm-strip-19
		;;
	*)
		echo "install-deps: unknown group $group; there is build, test, qemu, browser, generate" >&2
		exit 2
		;;
	esac
done

if ((${#packages[@]} == 0)); then
	exit 0
fi
if ((EUID != 0)); then
	echo "install-deps: not root, so please install: ${packages[*]} (as root: apt-get install ${packages[*]})" >&2
	exit 3
fi
if ! command -v apt-get >/dev/null; then
	echo "install-deps: no apt-get here; please install what Debian calls: ${packages[*]}" >&2
	exit 3
fi
export DEBIAN_FRONTEND=noninteractive
echo "install-deps: installing ${packages[*]}" >&2
apt-get update -q >&2
apt-get install -qy --no-install-recommends "${packages[@]}" >&2
