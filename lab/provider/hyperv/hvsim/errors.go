package hvsim

import "errors"

// Why a guest's verb did not run.
var (
	ErrGuestAuth     = errors.New("the guest refused the credentials")
	ErrGuestNotReady = errors.New("the guest does not answer PowerShell Direct yet")
)
