package pin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l4lab/agent/testnet"
)

// exitCode is what an error asks for, 1 when it asks for nothing.
func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return 1
}

func TestPlacesWhereNoPinDirectoryCanBe(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, says string
		want       error
		code       int
	}{
		"another file system":        {filepath.Join(dir, "pins"), "mount -t bpf bpf " + dir, ErrUnsupported, 3},
		"a parent that is not there": {filepath.Join(dir, "no", "pins"), "--pin-dir: its parent " + dir + "/no: no such file", ErrUsage, 2},
		"a parent that is a file":    {filepath.Join(file, "no", "pins"), "not a directory", ErrUsage, 2},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(c.path, errors.New("in use"))
			if !errors.Is(err, c.want) || exitCode(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v (exit code %d), want %q (%d)", err, exitCode(err), c.says, c.code)
			}
			if _, err := os.Stat(c.path); err == nil {
				t.Error("it was made all the same")
			}
		})
	}
}

func TestPinDirectoryHasOneUserAtATime(t *testing.T) {
	path := filepath.Join(testnet.BPFFS(t), "pins")
	inUse := errors.New("in use")
	for round := range 2 {
		lock, err := Open(path, inUse)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if _, err := Open(path, inUse); !errors.Is(err, inUse) || !strings.Contains(err.Error(), path) {
			t.Errorf("round %d: the second user: got %v, want %v", round, err, inUse)
		}
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRemovingALinkThatIsNotPinnedIsFine(t *testing.T) {
	path := filepath.Join(testnet.BPFFS(t), "link")
	if l, err := Link(path); l != nil || err != nil {
		t.Errorf("open: got %v, %v", l, err)
	}
	if err := RemoveLink(path); err != nil {
		t.Error(err)
	}
}

func TestRefusalsOfAnXDPProgramAreExplained(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		generic bool
		want    error
		says    string
		code    int
	}{
		"a driver without native XDP":        {unix.EOPNOTSUPP, false, ErrUnsupported, "--generic takes the slow mode", 3},
		"a driver without any":               {unix.EOPNOTSUPP, true, unix.EOPNOTSUPP, "not supported", 1},
		"somebody else's program":            {unix.EBUSY, false, ErrForeignProgram, "not ours to remove", 1},
		"somebody else's, in the other mode": {unix.EEXIST, true, ErrForeignProgram, "not ours to remove", 1},
		"an MTU out of range":                {unix.ERANGE, false, unix.ERANGE, "the MTU of 9000", 1},
		"an MTU that a veth refuses":         {unix.EINVAL, false, unix.EINVAL, "3506", 1},
		"a missing privilege":                {unix.EPERM, false, ErrPermission, "needs root", 3},
	} {
		t.Run(name, func(t *testing.T) {
			err := ExplainXDP(c.err, c.generic, 9000)
			if !errors.Is(err, c.want) || !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) || exitCode(err) != c.code {
				t.Errorf("got %v (exit code %d), want %q (%d)", err, exitCode(err), c.says, c.code)
			}
		})
	}
}

func TestTheKernelsAnswersAreTold(t *testing.T) {
	cases := map[string]struct {
		err  error
		want error
	}{
		"EPERM is a missing privilege":         {fmt.Errorf("load: %w", unix.EPERM), ErrPermission},
		"EACCES is a missing privilege":        {fmt.Errorf("open: %w", unix.EACCES), ErrPermission},
		"an unknown feature is a missing one":  {fmt.Errorf("link: %w", ebpf.ErrNotSupported), ErrUnsupported},
		"what is told already is not repeated": {fmt.Errorf("x: %w: %w", ErrUnsupported, unix.EPERM), ErrUnsupported},
		"anything else stays as it is":         {unix.ENOSPC, unix.ENOSPC},
		"nothing stays nothing":                {nil, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Explain(c.err); !errors.Is(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	rejected := fmt.Errorf("%w", &ebpf.VerifierError{Cause: unix.EACCES})
	if got := Explain(rejected); errors.Is(got, ErrPermission) {
		t.Errorf("a rejected program is taken for a missing privilege: %v", got)
	}
}
