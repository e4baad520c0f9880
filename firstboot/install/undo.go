package install

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/images/bootdisk"
)

// quick is all that Begin writes before it makes file systems, in groups between
// which it waits for the disk. Nothing else of the disk changes until then, so
// that whoever keeps what these places hold can give the disk back as it was.
//
// First whose disk it is, and that the node on it, if it was one's, stops
// starting; then both ends of the disk and of the new volumes, where every format
// has its marks; then the tables and the loaders' file systems.
func (d *Disk) quick(dev *device, loaders map[string][]byte) (groups [][]bootdisk.Write, err error) {
	boot, err := d.plan.Format(loaders)
	if err != nil {
		return nil, err
	}
	groups = noteWrites(d.ID, d.m.Note, dev.geometry.Sector)
	if old, err := bootdisk.Read(dev, dev.geometry); err == nil {
		groups = append(groups, old.Disk.Deactivate())
	}
	zero := make([]byte, edge)
	first := []bootdisk.Write{{At: 0, Data: zero}, {At: dev.geometry.Size - edge, Data: zero}}
	first = append(first, bootdisk.Write{At: d.plan.ESP().First, Data: zero})
	for _, p := range []bootdisk.Partition{d.plan.Store(), d.plan.State()} { // what was in their place
		first = append(first, marks(p)...)
	}
	return append(groups, first, d.plan.Table(), boot), nil // Table clears what is Format's
}

// places are the runs of bytes that writes touch, in order and apart.
func places(groups [][]bootdisk.Write) []bootdisk.Extent {
	var all []bootdisk.Extent
	for _, g := range groups {
		for _, w := range g {
			all = append(all, bootdisk.Extent{At: w.At, Size: int64(len(w.Data))})
		}
	}
	return Merge(all)
}

// Merge sorts runs of bytes and joins those that meet.
func Merge(all []bootdisk.Extent) (out []bootdisk.Extent) {
	slices.SortFunc(all, func(a, b bootdisk.Extent) int { return int(min(max(a.At-b.At, -1), 1)) })
	for _, e := range all {
		if n := len(out); n > 0 && e.At <= out[n-1].At+out[n-1].Size {
			out[n-1].Size = max(out[n-1].Size, e.At+e.Size-out[n-1].At)
			continue
		}
		out = append(out, e)
	}
	return out
}

// Restore writes back what a disk held and reads it back. The note of who began
// to write it goes last, when all else is on the disk, and its first sector after
// the others: a power cut before that finds it, see Begun. size is the disk's when it was saved; data is the content
// of the places, in order.
func Restore(path string, size int64, at []bootdisk.Extent, data []byte) error {
	dev, err := open(path)
	if err != nil {
		return err
	}
	defer dev.Close()
	if dev.geometry.Size != size {
		return fmt.Errorf("%s has %d bytes, and what was saved is of a disk of %d", path, dev.geometry.Size, size)
	}
	note := bootdisk.Spare()
	sector := note.At + int64(dev.geometry.Sector) // where the note's second begins
	var first, second, last []bootdisk.Write
	for _, e := range at {
		if e.At < 0 || e.Size < 0 || e.At+e.Size > size || e.Size > int64(len(data)) {
			return fmt.Errorf("%s: %d bytes at %d are not within what was saved", path, e.Size, e.At)
		}
		old := data[:e.Size]
		data = data[e.Size:]
		part := func(group *[]bootdisk.Write, from, to int64) {
			if from, to = max(from, e.At), min(to, e.At+e.Size); from < to {
				*group = append(*group, bootdisk.Write{At: from, Data: old[from-e.At : to-e.At]})
			}
		}
		part(&first, 0, note.At)
		part(&last, note.At, sector)
		part(&second, sector, note.At+note.Size)
		part(&first, note.At+note.Size, size)
	}
	for _, group := range [][]bootdisk.Write{first, second, last} {
		if err := dev.write(group); err != nil {
			return failed(path, err)
		}
		if err := dev.compare(group); err != nil {
			return failed(path, err)
		}
	}
	if err := dev.reread(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) { // a loop device, a file
		return failed(path, err)
	}
	return nil
}

// compare reads back what was written.
func (d *device) compare(group []bootdisk.Write) error {
	for _, w := range group {
		got := make([]byte, len(w.Data))
		if _, err := d.ReadAt(got, w.At); err != nil {
			return fmt.Errorf("reading %d bytes at %d back: %w", len(got), w.At, err)
		}
		if !bytes.Equal(got, w.Data) {
			return fmt.Errorf("%d bytes at %d are not what was written: %w", len(got), w.At, unix.EIO)
		}
	}
	return nil
}
