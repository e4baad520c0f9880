package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/images/bootdisk"
)

// device is a whole disk, open for reading and writing. The kernel refuses it
// (EBUSY) while a partition of it is mounted only where it is opened exclusively,
// which Begin's first write is about.
type device struct {
	*os.File
	geometry bootdisk.Geometry
}

func open(path string) (*device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failed(path, err)
	}
	d := &device{File: f, geometry: bootdisk.Geometry{Sector: 512}}
	if d.geometry.Size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(failed(path, err), f.Close())
	}
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil {
		d.geometry.Sector = n
	}
	return d, nil
}

// write writes a group and returns when the disk has all of it, with its cache
// flushed: no write of the next group gets there before one of this.
func (d *device) write(group []bootdisk.Write) error {
	for _, w := range group {
		if _, err := d.WriteAt(w.Data, w.At); err != nil {
			return fmt.Errorf("writing %d bytes at %d: %w", len(w.Data), w.At, err)
		}
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("flushing: %w", err)
	}
	// What is read from here on comes from the disk.
	return unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// reread has the kernel take the new partition table.
func (d *device) reread() error {
	var err error
	for range 20 { // somebody who probes new disks may have it open for a moment
		if err = unix.IoctlSetInt(int(d.Fd()), unix.BLKRRPART, 0); err == nil || !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("reading the new partition table: %w", err)
	}
	return nil
}

// partitionLimit is how long a partition may take to appear below /dev.
const partitionLimit = 20 * time.Second

// partition finds a partition by where it begins: numbers and names
// depend on the kind of disk.
func (m Machine) partition(ctx context.Context, disk string, p bootdisk.Partition) (string, error) {
	if m.Partition != nil {
		return m.Partition(ctx, disk, p)
	}
	began := time.Now()
	for {
		dirs, err := filepath.Glob(filepath.Join(m.Sys, "class/block", filepath.Base(disk), "*", "start"))
		if err != nil {
			return "", err
		}
		for _, f := range dirs {
			raw, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			start, _ := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
			dev := filepath.Join(m.Dev, filepath.Base(filepath.Dir(f)))
			if _, err := os.Stat(dev); err == nil && start*512 == p.First { // sysfs counts in 512 bytes
				return dev, nil
			}
		}
		if time.Since(began) > partitionLimit {
			return "", fmt.Errorf("%s: partition %s at byte %d did not appear", disk, p.Name, p.First)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
