// Package hvsim is a simulated Hyper-V host, as labctl sees one: it speaks
// WinRM on the wire (package wsman), answers to exactly the scripts that a real
// host would run, by the SHA-256 of the bytes that arrived, and keeps a model of
// switches, virtual machines, disks and checkpoints with Hyper-V's rules. Its
// guests are real enough to carry packets (Guests).
//
//	h, err := hvsim.Start(ctx, hvsim.Options{Dir: dir})
//	defer h.Close(ctx)
//	e := h.Endpoint() // address, certificate's fingerprint, user, SSH jump
//
// It never pretends: what it answers says that it is simulated, and what has
// never met a real host is listed in docs/windows.md.
//
// A script's verb is a Go function here (handlers), which has the types of the
// script's contract and follows the script step by step: what it calls a change,
// which code it gives an error. Errors of Hyper-V's own carry the identifiers
// and words that users of Hyper-V report; the words of others are ours.
//
// Where it is not as a real host:
//
//   - A disk is a small file that names its parent, or, for an image, its
//     operating system. What a machine writes goes to a folder of its own. With
//     guests that boot real disks (Options.LinuxDisk, package qemuguests) an image
//     of Linux is a real VHDX.
//   - Files of a removed checkpoint are merged at once, and a machine is always
//     off after a checkpoint was restored, as production checkpoints leave it.
//   - New-VM makes no folder with the machine's configuration.
//   - A machine that does not answer its shutdown is turned off without waiting.
//   - A new switch's adapter has no address, where Windows makes one up
//     (169.254.0.0/16) until DHCP is turned off on it.
//   - A port proxy whose port another program has is an error, where netsh adds
//     a row that does nothing.
//   - A capture does not outlive the process.
//   - Names of files are at most 255 bytes long in UTF-8, where NTFS has 255
//     UTF-16 units.
//   - A second machine with the same static MAC address on a switch does not
//     start; which versions of Hyper-V let it start is not known.
package hvsim
