package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/windows"

	"l4lab/agent/datapath"
)

// defaultPinDir is a prefix of pins: BPF:\lbagent\services and so on.
const defaultPinDir = "lbagent"

// defaultProfile is the one that can do both modes.
const defaultProfile = string(datapath.ProfileEFW021)

func defaultSocket() string { return `\\.\pipe\lbagent` }

// defaultStateFile keeps the services over a restart of the machine.
func defaultStateFile(string) (string, error) {
	dir, err := dataDir()
	return filepath.Join(dir, "lbagent.state.json"), err
}

// ownersOnly grants everything to SYSTEM and Administrators, nothing to anyone else, and
// takes nothing over from the parent (SDDL).
const ownersOnly = "D:P(A;OICI;GA;;;SY)(A;OICI;GA;;;BA)"

// dataDir is the folder of state and log, made when it is missing. Any user may make
// folders in ProgramData, so one that is there must be an administrator's, and gets
// the ACL that it would have been made with. Not run on a Windows host yet.
func dataDir() (string, error) {
	dir := filepath.Join(os.Getenv("ProgramData"), "lbagent")
	descriptor, err := windows.SecurityDescriptorFromString(ownersOnly)
	if err != nil {
		return dir, fmt.Errorf("parse the ACL %s: %w", ownersOnly, err)
	}
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return dir, err
	}
	attributes := windows.SecurityAttributes{SecurityDescriptor: descriptor}
	attributes.Length = uint32(unsafe.Sizeof(attributes))
	err = windows.CreateDirectory(name, &attributes)
	if err == nil {
		return dir, nil
	}
	if !errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
		return dir, fmt.Errorf("make %s: %w", dir, err)
	}
	if err := makeOurs(dir, descriptor); err != nil {
		return dir, fmt.Errorf("take the folder %s: %w", dir, err)
	}
	return dir, nil
}

func makeOurs(dir string, descriptor *windows.SECURITY_DESCRIPTOR) error {
	info, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return err
	}
	owner, _, err := info.Owner()
	if err != nil {
		return err
	}
	if !owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) && !owner.IsWellKnown(windows.WinLocalSystemSid) {
		return fmt.Errorf("its owner is %s, neither Administrators nor SYSTEM: look at what is in it, and remove it", owner)
	}
	acl, _, err := descriptor.DACL()
	if err != nil {
		return err
	}
	return windows.SetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, acl, nil)
}

func clientSocket() string { return defaultSocket() }
