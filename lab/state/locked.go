package state

import "fmt"

// LockedError says that another process works on the lab.
type LockedError struct {
	Lab string
	// PID is the other's process, 0 when it could not be read.
	PID int
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("lab %s is being changed by %s; wait for it to end, or end it, and try again", e.Lab, who)
}
