package hvsim

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/scripts"
)

// failure is an error of a script: what its envelope says.
type failure struct{ code, message, target string }

func (f *failure) Error() string { return f.message }

// fail makes one with a code of the contract's, or with the identifier that
// PowerShell gives an error of a cmdlet.
func fail(code, target, format string, args ...any) error {
	return &failure{code: code, message: fmt.Sprintf(format, args...), target: target}
}

// PowerShell's identifiers of errors that the model gives as cmdlets would.
const (
	idObjectInUse     = "ObjectInUse"
	idInvalidState    = "InvalidState"
	idInvalidParam    = "InvalidParameter"
	idOperationFailed = "OperationFailed"
	idAccessDenied    = "AccessDenied"
	idNoCommand       = "CommandNotFoundException"
	idNoParameter     = "NamedParameterNotFound"
	idMissing         = "MissingMandatoryParameter"
	idConversion      = "ParameterArgumentTransformationError"
	idIO              = "IOException"
	idNotSupported    = "NotSupportedException"
	idUnknownScript   = "unknownScript"
)

// failureOf turns any error of the model into what an envelope can say.
func failureOf(err error) *failure {
	var (
		f      *failure
		script *powershell.ScriptError
	)
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &script):
		return &failure{script.Code, script.Message, script.Target}
	case errors.Is(err, ErrGuestAuth):
		// Both texts are those of New-PSSession -VMId.
		return &failure{code: scripts.GuestAuth, message: "The credential is invalid."}
	case errors.Is(err, ErrGuestNotReady):
		return &failure{code: scripts.GuestNotReady, message: "A remote session might have ended."}
	case errors.Is(err, syscall.ENOSPC):
		return &failure{code: scripts.NoSpace, message: "There is not enough space on the disk."}
	case errors.Is(err, fs.ErrPermission):
		return &failure{code: "UnauthorizedAccessException", message: err.Error()}
	}
	return &failure{code: idIO, message: err.Error()}
}
