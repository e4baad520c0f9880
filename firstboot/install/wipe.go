package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/images/bootdisk"
)

// Deactivate makes the disk one that firmware passes over.
func (d *Disk) Deactivate() error {
	dev, err := open(d.Path)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := dev.write(d.plan.Deactivate()); err != nil {
		return failed(d.Path, err)
	}
	d.Active = false
	return nil
}

// secrets are where a node keeps keys and passwords, below the state volume; its
// own part comes last: while it is there, a power cut is followed by going on.
func secrets() []string {
	return []string{"overlay/etc", "var/lib/kubelet/pki", "var/lib/etcd", "var/lib/slipway", "root", "home", ownDir}
}

// Shred overwrites the node's secrets in their places and removes them. Both
// volumes must have been let go of: the state is mounted where nothing else is
// mounted below it, and other file systems are not entered. A disk that writes
// elsewhere than it is told, as SSDs do, is Wipe's business.
func (d *Disk) Shred(ctx context.Context) error {
	at := filepath.Join(d.m.Mounts, "shred")
	if err := d.mountVolume(ctx, d.plan.State(), at); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(at, 0) }()
	var root unix.Stat_t
	if err := unix.Stat(at, &root); err != nil {
		return err
	}
	var errs []error
	for _, s := range secrets() {
		if err := shred(filepath.Join(at, s), root.Dev); err != nil {
			errs = append(errs, err)
		}
	}
	return failed(d.Path, errors.Join(append(errs, syncFS(at))...))
}

// shred overwrites and removes the files below a directory, as far as they are on
// the file system of that number.
func shred(dir string, own uint64) error {
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		switch {
		case e.IsDir() && st.Dev != own:
			return fs.SkipDir
		case e.IsDir():
			return nil
		case e.Type().IsRegular() && st.Dev == own:
			if err := overwrite(name, st.Size); err != nil {
				return err
			}
		}
		return os.Remove(name)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// overwrite fills a file with zeros and waits until the disk has them.
func overwrite(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	zero := make([]byte, edge)
	for at := int64(0); err == nil && at < size; at += edge {
		_, err = f.WriteAt(zero[:min(edge, size-at)], at)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// Wipe empties the disk: what says that there are file systems, the loaders'
// places, and the tables last. Where the disk knows how to forget (BLKDISCARD)
// it is told to, and discarded says of how many bytes. Nobody may write to the
// volumes any more; the disk is of no use as a Disk after it.
func (d *Disk) Wipe(ctx context.Context) (discarded int64, err error) {
	dev, err := open(d.Path)
	if err != nil {
		return 0, err
	}
	defer dev.Close()
	volumes := []bootdisk.Partition{d.plan.Store(), d.plan.State()}
	var group []bootdisk.Write
	for _, p := range volumes {
		group = append(group, marks(p)...)
	}
	if err := dev.write(group); err != nil {
		return 0, failed(d.Path, err)
	}
	for _, p := range volumes {
		if name, err := d.m.partition(ctx, d.Path, p); err == nil && discard(name, p.Size) == nil {
			discarded += p.Size
		}
	}
	const ends = 4 << 20 // tables, BIOS loaders, the FAT and the note
	group = []bootdisk.Write{{At: dev.geometry.Size - edge, Data: make([]byte, edge)}, {At: 0, Data: make([]byte, ends)}}
	return discarded, failed(d.Path, dev.write(append(group, marks(d.plan.ESP())...)))
}

// edge is where every format has its marks, at either end.
const edge = 1 << 20

// marks are writes of zeros over both ends of a partition, and over the copies
// of its superblock that ext4 has in groups of 128 MiB whose numbers are powers
// of 3, 5 and 7 (Documentation/filesystems/ext4/super.rst),
// or where e2fsck looks for one: the second group for every size of blocks.
func marks(p bootdisk.Partition) []bootdisk.Write {
	const group, copied = 128 << 20, 64 << 10
	places := map[int64]bool{0: true, p.Size - edge: true}
	for _, base := range []int64{3, 5, 7} {
		for at := int64(group); at < p.Size-edge; at *= base {
			places[at] = true
		}
	}
	for block := int64(1 << 10); 8*block*block < p.Size-edge && block <= 64<<10; block *= 2 {
		places[8*block*block] = true
	}
	var out []bootdisk.Write
	for _, at := range slices.Sorted(maps.Keys(places)) {
		n := copied
		if at == 0 || at == p.Size-edge {
			n = edge
		}
		out = append(out, bootdisk.Write{At: p.First + at, Data: make([]byte, n)})
	}
	return out
}

// discard tells a device to forget all of it. It refuses while it is mounted.
func discard(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	all := [2]uint64{0, uint64(size)}
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&all))); no != 0 {
		return fmt.Errorf("%s: BLKDISCARD: %w", name, no)
	}
	return f.Sync()
}
