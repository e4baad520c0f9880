// Package supervise keeps child processes running: it starts, stops and
// restarts them, gives each its own control group and log file, remembers
// their last lines, and reaps every process that ends, adopted ones too.
//
// It does not know which services exist, mounts nothing and never exits.
package supervise

import (
	"context"
	"time"
)

// Service is a long-running child process.
type Service struct {
	Name string   // also of its control group and log file: letters, digits, "-"
	Argv []string // absolute path first; no shell
	Env  []string // "KEY=value", added to PATH and nothing else
	Dir  string   // working directory; "" is /
	// Command, if set, gives argv and environment at every start instead of
	// Argv and Env: for a service whose flags are files that appear later.
	Command func() (argv, env []string, err error)
	// When, if set, holds the first and every later start back until it is true.
	When func() bool
	// Ready, if set, returns nil once the service answers, an error when ctx ends.
	Ready func(ctx context.Context) error
}

// delay is how long the n-th restart in a row waits: the first not at all,
// then 1, 2, 4, 8 and at most 15 s.
func delay(n int) time.Duration {
	if n <= 1 {
		return 0
	}
	if n > 5 {
		return 15 * time.Second
	}
	return time.Second << (n - 2)
}

// steady is how long a service has to run until its next end counts as the first.
const steady = time.Minute
