package provider

import (
	"context"
	"time"
)

// Keeper is a Provider that can keep what a lab's machines are, memory and disks, and
// bring it back.
type Keeper interface {
	// SaveSnapshot keeps the state of all nodes, of one moment, under a new name.
	SaveSnapshot(ctx context.Context, lab Lab, name string) error
	// RestoreSnapshot has all nodes go on from a kept state.
	RestoreSnapshot(ctx context.Context, lab Lab, name string) error
	// Snapshots lists what is kept, the oldest first.
	Snapshots(lab Lab) ([]Snapshot, error)
	// RemoveSnapshot forgets one.
	RemoveSnapshot(lab Lab, name string) error
}

// SetUpKeeper is a Provider that can keep a lab that was just brought up, so that
// another one like it comes up faster.
type SetUpKeeper interface {
	// KeepSetUp is told of a lab that is up. It decides whether that is worth keeping.
	KeepSetUp(ctx context.Context, lab Lab) error
	// HasSetUp says that a lab like this one was kept, from which it can go on.
	HasSetUp(ctx context.Context, lab Lab) bool
	// ResumeSetUp makes a lab, of which nothing exists, go on from what was kept. What
	// the lab then lacks is found by looking at it.
	ResumeSetUp(ctx context.Context, lab Lab) error
}

// Snapshot is a kept state.
type Snapshot struct {
	Name  string    `json:"name"`
	Taken time.Time `json:"taken"`
	// Bytes is how much memory of guests is kept.
	Bytes int64 `json:"bytes"`
}
