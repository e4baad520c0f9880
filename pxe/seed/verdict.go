package seed

import (
	"time"
)

// Judge says why a machine stands still.
func Judge(m Machine, steps []Step, now time.Time) *Verdict {
	return nil
}
