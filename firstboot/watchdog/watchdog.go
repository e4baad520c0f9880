// Package watchdog keeps a hardware watchdog quiet as long as PID 1 runs: a
// machine whose init or kernel hangs starts again by itself.
//
// It does not judge whether the node is healthy, and stops no watchdog that
// somebody else uses.
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Timeout is after how long without a sign of life the hardware resets the
// machine; a sign is given four times as often.
const Timeout = 60 * time.Second

// ioctl numbers of include/uapi/linux/watchdog.h: _IOWR('W', 6, int), _IOR('W', 5, int).
const (
	setTimeout = 0xc0045706
	keepAlive  = 0x80045705
)

// Run opens the device and keeps it quiet until ctx ends; it leaves it armed,
// so that a shutdown that hangs ends, too. A machine without one, or whose
// watchdog is busy, is fs.ErrNotExist or EBUSY. ready is called once with the
// timeout that the hardware took.
func Run(ctx context.Context, device string, ready func(time.Duration)) error {
	f, err := os.OpenFile(device, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close() // without the magic 'V' it stays armed (watchdog-api.rst)
	seconds := int(Timeout / time.Second)
	if err := unix.IoctlSetPointerInt(int(f.Fd()), setTimeout, seconds); err != nil {
		return fmt.Errorf("%s: setting %s: %w", device, Timeout, err)
	}
	ready(Timeout)
	t := time.NewTicker(Timeout / 4)
	defer t.Stop()
	for {
		if err := unix.IoctlSetInt(int(f.Fd()), keepAlive, 0); err != nil {
			return fmt.Errorf("%s: %w", device, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// Missing reports that there is no watchdog to use.
func Missing(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EBUSY) }
