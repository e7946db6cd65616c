package vm

import (
	"context"
	"errors"
	"os/exec"
	"testing"
)

func TestProbeStartsAGuest(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	accel, why, err := Probe(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if accel == KVM && why != "" || accel == TCG && why == "" {
		t.Errorf("%s, because of %q", accel, why)
	}
	t.Logf("%s %s", accel, why)
}

func TestWhatProbeMakesOfAQEMU(t *testing.T) {
	t.Parallel()
	const kvmFails = `case "$*" in *"-accel kvm"*) echo "Could not access KVM kernel module: no such luck" >&2; exit 1;; esac; `
	for name, tt := range map[string]struct {
		script string
		accel  Accel
		why    string
		errs   []string
	}{
		"KVM is there":                         {"exit 85", KVM, "", nil},
		"KVM is not there":                     {kvmFails + "exit 85", TCG, "Could not access KVM kernel module: no such luck (exit status 1)", nil},
		"KVM starts, and the guest never runs": {`case "$*" in *"-accel kvm"*) exit 0;; esac; exit 85`, TCG, "it ended before the guest did", nil},
		"nothing works":                        {kvmFails + "echo broken; exit 127", "", "", []string{"with KVM: Could not access", "emulated: broken"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			accel, why, err := Probe(t.Context(), script(t, t.TempDir(), tt.script))
			if accel != tt.accel || why != tt.why {
				t.Errorf("got %q because of %q, want %q because of %q", accel, why, tt.accel, tt.why)
			}
			if tt.errs != nil {
				wantError(t, err, tt.errs...)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	_, _, err := Probe(ctx, script(t, t.TempDir(), "sleep 1000"))
	wantError(t, err, "interrupted")
}

func TestProbeOfAQEMUThatIsNotThere(t *testing.T) {
	t.Parallel()
	if _, _, err := Probe(t.Context(), "/none/qemu"); err == nil || errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}
