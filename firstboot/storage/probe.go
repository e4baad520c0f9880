package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/firstboot/disks"
)

// probe is what a mount would take a device for.
func probe(r io.ReaderAt, size int64) (disks.Found, error) {
	all, err := disks.Probe(r, size)
	if len(all) == 0 || err != nil {
		return disks.Found{}, err
	}
	return all[0], nil
}

// readTable reads the table that a disk has as the kernel sees it; ok is false
// without a valid one.
func readTable(d *disk) (t table, ok bool) {
	have, ok := disks.ReadTable(d, d.size, d.sector)
	if !ok || have.Copy || have.Bare {
		return t, false
	}
	t.kind = have.Kind
	for _, p := range have.Parts {
		t.parts = append(t.parts, part{p.Start, p.Count, p.Type})
	}
	return t, true
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// disk is an open block device, or an image of one.
type disk struct {
	*os.File
	size   int64
	sector int64
}

func openDisk(path string, write bool) (*disk, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | unix.O_EXCL // the kernel refuses it for a device that is mounted
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	d := &disk{File: f, sector: 512}
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil {
		d.sector = int64(n)
	}
	return d, nil
}

// look probes a device by its path.
func look(path string) (disks.Found, error) {
	d, err := openDisk(path, false)
	if err != nil {
		return disks.Found{}, err
	}
	defer d.Close()
	f, err := probe(d, d.size)
	if err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}
