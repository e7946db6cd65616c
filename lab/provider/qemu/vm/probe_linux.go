package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// probeLimit is how long a guest of three instructions may take.
const probeLimit = 20 * time.Second

// Probe says which accelerator works here, and why not the faster one. It asks
// by starting a guest: a /dev/kvm that is there may still refuse, or belong to
// a host whose processors have no virtualisation left to give.
func Probe(ctx context.Context, qemu string) (accel Accel, why string, err error) {
	program, err := binary(qemu)
	if err != nil {
		return "", "", err
	}
	kvm := try(ctx, program, KVM)
	if kvm == nil {
		return KVM, "", nil
	}
	if ctx.Err() != nil {
		return "", "", context.Cause(ctx)
	}
	if err := try(ctx, program, TCG); err != nil {
		return "", "", fmt.Errorf("start a guest with %s: with KVM: %w; emulated: %w", program, kvm, err)
	}
	return TCG, kvm.Error(), nil
}

// exitCode is what QEMU ends with when the guest writes exitValue to the port
// of isa-debug-exit (hw/misc/debugexit.c).
const (
	exitValue = 0x2a
	exitCode  = exitValue<<1 | 1
)

// try runs a guest that consists of a firmware of three instructions.
func try(ctx context.Context, program string, accel Accel) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeLimit, fmt.Errorf("a guest that only ends did not within %s", probeLimit))
	defer cancel()
	dir, err := os.MkdirTemp("", "l4lab-probe-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	firmware := filepath.Join(dir, "firmware")
	if err := os.WriteFile(firmware, probeFirmware(), 0o600); err != nil {
		return err
	}
	var said strings.Builder
	cmd := exec.CommandContext(ctx, program,
		"-no-user-config", "-nodefaults", "-display", "none",
		"-machine", "q35", "-accel", string(accel), "-m", "16", "-bios", firmware,
		"-device", "isa-debug-exit,iobase=0xf4,iosize=1")
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitCode {
		return nil
	}
	if err == nil {
		err = errors.New("it ended before the guest did")
	}
	if words := strings.Join(strings.Fields(said.String()), " "); words != "" {
		return fmt.Errorf("%s (%w)", words, err)
	}
	return err
}

// probeFirmware is 64 KiB, the least that QEMU takes, so that the reset vector,
// 16 bytes before the end of the first 4 GB, lies in it.
func probeFirmware() []byte {
	firmware := make([]byte, 64<<10)
	copy(firmware[len(firmware)-16:], []byte{
		0xba, 0xf4, 0x00, // mov dx, 0xf4
		0xb0, exitValue, // mov al, exitValue
		0xee, // out dx, al
		0xf4, // hlt
	})
	return firmware
}
