// Package operator is the operator's side of a seed: HTTP with JSON over a
// unix socket, its client, and a read-only web page.
//
// It decides nothing: what it is asked goes to the Desk, which *seed.Seed is.
// It approves nobody by itself, shows no secret on the page, and draws no
// terminal (package table does).
package operator

import (
	"context"
	"time"

	"slipway.dev/slipway/pxe/seed"
)

// Viewer tells what a page or a table shows.
type Viewer interface {
	Status() seed.Status
	Machines() []seed.Machine // by ID
	Timeline(id string) []seed.Step
}

// Finder answers a question about one thing. Steps returns those with a greater
// Seq, in order, and a channel that is closed when there are more.
type Finder interface {
	Machine(ref string) (seed.Machine, error)
	Steps(after uint64) (steps []seed.Step, changed <-chan struct{})
	Kubeconfig() ([]byte, error)
}

// Judge decides about one machine. Code is compared when it is not empty; wipe
// names disks of the machine that may lose what they hold.
type Judge interface {
	Approve(ref, code string, wipe ...string) (seed.Machine, error)
	Reject(ref, reason string) (seed.Machine, error)
	Assign(ref, name, role string) (seed.Machine, error)
}

// Upgrader gives nodes what this seed serves, one by one.
type Upgrader interface {
	Plan(ctx context.Context) (seed.Upgrade, error)
	Upgrade(ctx context.Context, ref string) (seed.Machine, error)
	Withdraw(ctx context.Context, ref string) (seed.Machine, error) // any order
}

// Remover takes nodes out of the cluster, to install them anew or for good.
// Reimage and Remove may take as long as pods may take to move.
type Remover interface {
	Departure(ctx context.Context, ref string) (seed.Departure, error)
	Reimage(ctx context.Context, ref string, how seed.Leaving) (seed.Machine, error)
	Remove(ctx context.Context, ref string, how seed.Leaving) (seed.Machine, error)
}

// Undoer takes back a consent to wipe a disk, while that can be done.
type Undoer interface {
	UndoWipe(ref string) (seed.Machine, error)
}

// Desk is the whole of a seed to its operator. Errors that are a
// *handoff.Refusal are for him; any other is a fault of the seed.
type Desk interface {
	Viewer
	Finder
	Judge
	Upgrader
	Remover
	Undoer
	Arm(d time.Duration) error
}
