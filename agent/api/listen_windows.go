package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/windows"
)

// ownerOnly grants everything to Administrators and SYSTEM, nothing to anyone
// else, and takes nothing over from the parent directory (SDDL).
const ownerOnly = "D:P(A;OICI;GA;;;SY)(A;OICI;GA;;;BA)"

// listenPrivate listens on an AF_UNIX socket, which Windows has since version
// 1803 (2018); what protects it is the ACL of its directory, which is made
// here when it is missing. Not run on a Windows host yet.
func listenPrivate(path string) (net.Listener, error) {
	if err := makePrivateDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

func makePrivateDir(dir string) error {
	descriptor, err := windows.SecurityDescriptorFromString(ownerOnly)
	if err != nil {
		return fmt.Errorf("parse the ACL %s: %w", ownerOnly, err)
	}
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return err
	}
	attributes := windows.SecurityAttributes{SecurityDescriptor: descriptor}
	attributes.Length = uint32(unsafe.Sizeof(attributes))
	err = windows.CreateDirectory(name, &attributes)
	if err != nil && !errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return nil
}

// isSocket accepts what Go reports for a socket's reparse point
// (IO_REPARSE_TAG_AF_UNIX): ModeSocket since Go 1.14, ModeIrregular before.
func isSocket(info os.FileInfo) bool { return info.Mode()&(os.ModeSocket|os.ModeIrregular) != 0 }

// fileLock is a file that nobody else can open and that vanishes with its handle.
type fileLock struct{ handle windows.Handle }

func lockFile(path string) (*fileLock, error) {
	if err := makePrivateDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	const shareNothing = 0
	handle, err := windows.CreateFile(name, windows.GENERIC_WRITE, shareNothing, nil, windows.CREATE_ALWAYS,
		windows.FILE_ATTRIBUTE_NORMAL|windows.FILE_FLAG_DELETE_ON_CLOSE, 0)
	switch {
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		return nil, running("")
	case err != nil:
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &fileLock{handle: handle}, nil
}

func (l *fileLock) release() error { return windows.CloseHandle(l.handle) }
