package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/bootdisk"
)

// Look has see look at a disk that Find found, its record read, while both volumes
// are mounted for reading. Not a byte of the disk changes: another machine may run
// from it at the same time. So journals are not replayed either; what says whose
// the disk is does not need them (see Disk.save, KeepEnrolment).
//
// An error that is fs.ErrNotExist means that the disk was only begun. With any
// other the disk cannot be read like that, although Open may be able to, which repairs.
func Look(ctx context.Context, m Machine, f Found, see func(*Disk)) error {
	d, err := f.disk(m, filepath.Join(m.Mounts, "look"))
	if err != nil {
		return err
	}
	if err := m.Load("ext4"); err != nil {
		return report.Fail("SW-MODULES-MISSING", "build the image again: its kernel lacks a module that a node needs", err)
	}
	err = d.untouched(ctx, d.plan.Store(), d.Store, func() error {
		return d.untouched(ctx, d.plan.State(), d.State, func() error {
			r, err := readRecord(d.Store)
			if err != nil {
				return err
			}
			if _, err := d.Enrolment(new(json.RawMessage)); err != nil {
				return err
			}
			d.Record, d.Runs = r, r.Slot
			see(d)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	return nil
}

// untouched mounts a volume while do runs, and nothing gets through to it. Its
// device has to be read-only: whether or not it mounts for reading, ext4 frees the
// files that were deleted while they were open (ext4_orphan_cleanup in fs/ext4/orphan.c).
func (d *Disk) untouched(ctx context.Context, p bootdisk.Partition, at string, do func() error) (err error) {
	dev, err := d.m.partition(ctx, d.Path, p)
	if err != nil {
		return err
	}
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	readOnly := func(v int) error {
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, v); err != nil {
			return fmt.Errorf("%s: read-only: %w", dev, err)
		}
		return nil
	}
	if err := readOnly(1); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, readOnly(0)) }()
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, at, "ext4", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "noload"); err != nil {
		return fmt.Errorf("mounting %s to look at it: %w", dev, err)
	}
	defer func() { _ = unix.Unmount(at, 0) }()
	return do()
}
