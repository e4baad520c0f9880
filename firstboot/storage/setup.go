// Package storage partitions, formats and mounts disks for data as user-data
// says: disk_setup, fs_setup, mounts and swap of cloud-init.
//
// It does not touch a disk that holds anything else, one that is in use, or
// slipway's own; and a second time it changes nothing.
package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/disks"
)

// Programs of the system root.
const (
	mkfsExt  = "/usr/sbin/mke2fs"
	mkfsXFS  = "/usr/sbin/mkfs.xfs"
	mkfsVFAT = "/usr/sbin/mkfs.vfat"
	mkswap   = "/usr/sbin/mkswap"
	mount    = "/usr/bin/mount"
	swapon   = "/usr/sbin/swapon"
)

// Setup is where disks are and how programs are run.
type Setup struct {
	Root   string                                         // below which mount points and fstab are: "/"
	Proc   string                                         // "/proc"
	Sys    string                                         // "/sys"
	Run    func(ctx context.Context, argv []string) error // runs a program to its end
	Report func(text string)                              // one line for people
}

// Apply does disk_setup, fs_setup, mounts and swap, in this order.
func (s Setup) Apply(ctx context.Context, c *configs.Storage) error {
	for _, name := range slices.Sorted(maps.Keys(c.DiskSetup)) {
		if err := s.partition(c, name); err != nil {
			return fmt.Errorf("disk_setup: %s: %w", name, err)
		}
	}
	for i, f := range c.FSSetup {
		if err := s.format(ctx, c, f); err != nil {
			return fmt.Errorf("fs_setup[%d]: %w", i, err)
		}
	}
	if err := s.mounts(ctx, c); err != nil {
		return err
	}
	return s.swap(ctx, c.Swap)
}

// own says why a device must be left alone whatever the config says, "" when
// nothing does. What is mounted covers the boot medium.
func (s Setup) own(dev string, d *disk) (string, error) {
	raw, err := os.ReadFile(filepath.Join(s.Proc, "self/mountinfo"))
	if err != nil {
		return "", err
	}
	swaps, err := os.ReadFile(filepath.Join(s.Proc, "swaps"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	for l := range strings.Lines(string(raw) + string(swaps)) {
		for _, w := range strings.Fields(l) {
			if strings.HasPrefix(w, "/dev/") && (w == dev || within(w, dev) || within(dev, w)) {
				return fmt.Sprintf("%s is in use", w), nil
			}
		}
	}
	found := []disks.Found{}
	whole, err := probe(d, d.size)
	if err != nil {
		return "", err
	}
	found = append(found, whole)
	if t, ok := readTable(d); ok {
		for _, p := range t.parts {
			f, err := probe(&window{d, int64(p.start) * d.sector}, int64(p.count)*d.sector)
			if err == nil {
				found = append(found, f)
			}
		}
	}
	for _, f := range found {
		if l := strings.ToUpper(f.Label); strings.HasPrefix(l, "SLIPWAY") || l == "CIDATA" {
			return fmt.Sprintf("it holds %s, which is slipway's own", f), nil
		}
	}
	return "", nil
}

// within reports whether a device is a partition of a disk by their names.
func within(part, disk string) bool {
	n, ok := strings.CutPrefix(part, disk)
	if last := disk[len(disk)-1]; ok && '0' <= last && last <= '9' {
		n, ok = strings.CutPrefix(n, "p")
	}
	return ok && n != "" && strings.Trim(n, "0123456789") == ""
}

// window is a part of a disk.
type window struct {
	d   *disk
	off int64
}

func (w *window) ReadAt(b []byte, off int64) (int, error) { return w.d.ReadAt(b, w.off+off) }

func (s Setup) partition(c *configs.Storage, name string) error {
	want := c.DiskSetup[name]
	if len(want.Layout.Parts) == 0 {
		return nil
	}
	dev, err := s.device(c, name)
	if err != nil {
		return err
	}
	d, err := openDisk(dev, false)
	if err != nil {
		return err
	}
	defer d.Close()
	t, err := plan(want, d.size, d.sector)
	if err != nil {
		return err
	}
	if have, ok := readTable(d); ok && have.kind == t.kind && slices.Equal(have.parts, t.parts) {
		return nil
	}
	if why, err := s.own(dev, d); err != nil || why != "" {
		return errors.Join(err, refusal(why))
	}
	regions := t.regions(name, d.size, d.sector)
	if !want.Overwrite {
		if err := vacant(d, regions); err != nil {
			return err
		}
	}
	return s.writeTable(dev, d, t, regions, want.Overwrite)
}

// refusal is an error unless there is nothing to refuse.
func refusal(why string) error {
	if why == "" {
		return nil
	}
	return errors.New(why)
}

// vacant accepts a disk that is empty, or half written by an earlier try.
func vacant(d *disk, regions []region) error {
	found, err := probe(d, d.size)
	if err != nil || found.Kind == "" {
		return err
	}
	for _, off := range []int64{0, max(0, d.size-disks.Edge)} {
		have := make([]byte, min(disks.Edge, d.size))
		if _, err := d.ReadAt(have, off); err != nil {
			return err
		}
		for _, r := range regions {
			from := r.off - off
			if from < 0 || from+int64(len(r.data)) > int64(len(have)) {
				continue
			}
			if old := have[from : from+int64(len(r.data))]; bytes.Equal(old, r.data) {
				clear(old)
			}
		}
		if !zero(have) {
			return fmt.Errorf("the disk holds %s: write overwrite: true if that may be lost", found)
		}
	}
	return nil
}

// writeTable clears what could be mistaken for something else, then writes the table.
func (s Setup) writeTable(dev string, d *disk, t table, regions []region, wipe bool) error {
	w, err := openDisk(dev, true)
	if err != nil {
		return err
	}
	defer w.Close()
	if wipe {
		offs := []int64{0, d.size - disks.Edge}
		for _, p := range t.parts {
			offs = append(offs, int64(p.start)*d.sector, int64(p.start+p.count)*d.sector-disks.Edge)
		}
		for _, off := range offs {
			if _, err := w.WriteAt(make([]byte, disks.Edge), max(0, off)); err != nil {
				return err
			}
		}
	}
	for _, r := range regions {
		if _, err := w.WriteAt(r.data, r.off); err != nil {
			return err
		}
		if err := w.Sync(); err != nil {
			return err
		}
	}
	// An image has no partitions to announce.
	if st, err := w.Stat(); err == nil && st.Mode()&os.ModeDevice != 0 {
		if err := unix.IoctlSetInt(int(w.Fd()), unix.BLKRRPART, 0); err != nil {
			return fmt.Errorf("announcing the partitions: %w", err)
		}
	}
	s.Report(fmt.Sprintf("%s: %d partitions (%s)", dev, len(t.parts), t.kind))
	return nil
}

// device gives the device behind a name of the config, with links followed.
func (s Setup) device(c *configs.Storage, name string) (string, error) {
	dev, n := c.Device(name)
	if n > 0 {
		return "", fmt.Errorf("%s is a partition: name the disk", name)
	}
	return s.find(dev)
}
