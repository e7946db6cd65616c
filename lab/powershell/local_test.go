package powershell_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"l4lab/lab/powershell"
)

func TestALocalProgramThatIsNotThereIsUnreachable(t *testing.T) {
	err := powershell.Local(powershell.LocalOptions{}).Run(t.Context(), powershell.Call{Script: echo})
	if !errors.Is(err, powershell.ErrUnreachable) || !strings.Contains(err.Error(), "powershell.exe installed") {
		t.Errorf("got %v", err)
	}
}

func TestALocalScriptsErrorsAreToldApart(t *testing.T) {
	t.Setenv("L4LAB_TEST_POWERSHELL", "1")
	r := powershell.Local(powershell.LocalOptions{Program: os.Args[0]})
	err := r.Run(t.Context(), powershell.Call{Script: fail, Input: map[string]string{"code": "inUse"}})
	if !errors.Is(err, &powershell.ScriptError{Code: "inUse"}) {
		t.Errorf("a script that fails: %v", err)
	}
	err = r.Run(t.Context(), powershell.Call{Script: garbage, Input: map[string]any{"text": "other\n", "exit": 5}})
	if !errors.Is(err, powershell.ErrProtocol) || !strings.Contains(err.Error(), "exit code 5; standard output: other; standard error: no luck") {
		t.Errorf("no envelope: %v", err)
	}
	own := errors.New("own fault")
	if err := r.Run(t.Context(), powershell.Call{Script: cat, Stdin: failingStream{own}}); !errors.Is(err, own) {
		t.Errorf("a reader that fails: %v", err)
	}
	if err := r.Run(t.Context(), powershell.Call{Script: cat, Stdin: strings.NewReader("x"), Stdout: failingStream{own}}); !errors.Is(err, own) {
		t.Errorf("a writer that fails: %v", err)
	}
}

func TestCancellingEndsALocalProcess(t *testing.T) {
	t.Setenv("L4LAB_TEST_POWERSHELL", "1")
	r := powershell.Local(powershell.LocalOptions{Program: os.Args[0]})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := r.Run(ctx, powershell.Call{Script: hang})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "run hang") {
		t.Errorf("got %v", err)
	}
}
