//go:build !linux

package tftp

import "time"

// delay is as coarse as the runtime's timers.
func delay(d time.Duration) { time.Sleep(d) }
