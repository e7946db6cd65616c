// Package image keeps the disks that virtual machines start from: it builds
// Debian with mmdebstrap, imports cloud images, exports disks that firmware boots,
// and makes the overlays that machines write to.
//
// An image is a folder of the store with a read-only qcow2 disk, what a direct
// kernel boot needs, and image.json, which describes both. The folder is named
// after the image and the hash of what it was made of, so that a changed recipe
// makes a new image beside the old one, on which overlays may still rest. A
// folder appears by a rename when all of it is there; a half-made image is never
// seen.
//
// The Debian image is made for CPUs that are emulated, where every program that
// starts costs 50 ms and more: no logind, no PAM, no generators, no rules of
// udev's, an initrd of busybox and nine modules. What is left is the kernel,
// systemd, journald, the first-boot program, udev for the network interface
// alone, networkd and sshd. Nobody hears an ACPI power button after a direct kernel
// boot: a machine is powered down by `systemctl poweroff`, or ended.
//
// What Export writes boots by firmware on machines that are not this project's
// own, Hyper-V's above all: there the initrd has further drivers, and the power
// button works.
package image
