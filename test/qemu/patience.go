package qemu

import (
	"fmt"
	"strconv"
	"time"
)

// Patience multiplies a limit for slow machines. The factor is what the caller
// was told (SLIPWAY_PATIENCE): a positive decimal number, or "" for 1.
func Patience(d time.Duration, factor string) (time.Duration, error) {
	if factor == "" {
		return d, nil
	}
	f, err := strconv.ParseFloat(factor, 64)
	if err != nil || !(f > 0 && f <= 1000) {
		return 0, fmt.Errorf("patience %q: not a number above 0 and up to 1000", factor)
	}
	return time.Duration(float64(d) * f), nil
}
