// Package install puts a node on a disk of its own and finds it there again:
// partitions, file systems, content and loaders, written so that a power cut at
// any moment leaves a disk that starts as before, or does not start and is gone
// on with.
//
// It does not choose the disk (package disks does), trusts only the manifest it
// is given, and knows nothing of Kubernetes.
//
// The order is what makes it safe. Nothing of a new disk starts by itself until
// Finish; Finish comes after everything on it was read back and was right; the
// loaders' last sectors are written after all else was synced.
package install

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
)

// Machine is what this package needs of the one it runs on.
type Machine struct {
	Sys, Dev string // /sys, /dev
	Mounts   string // directory below which volumes are mounted
	Arch     arch.Arch
	// Run runs a program to its end; an error holds what it said.
	Run func(ctx context.Context, argv []string) error
	// Load loads a kernel module.
	Load func(name string) error
	// Partition finds the device of a partition once the table is written; nil:
	// where the kernel shows it below Sys.
	Partition func(ctx context.Context, disk string, p bootdisk.Partition) (string, error)
	// Tell is told what is done, for people.
	Tell func(text string)
	// Note is what Begin leaves on the disk, beside the owner's GUID, before it
	// destroys anything, so that whoever finds the disk half made knows whose it is;
	// see Noted. nil for the GUID alone; see NotedFor.
	Note []byte
	// Save is given the places that Begin overwrites before it makes file systems,
	// while the disk is as it was found; an error ends Begin. nil: nobody keeps them.
	Save func(ctx context.Context, disk io.ReaderAt, size int64, places []bootdisk.Extent) error
	// Rest says that others' data which nothing is written over is to stay.
	Rest bool
	// Large is asked when those places may have been written and nothing else was:
	// what follows cannot be undone. An error ends Begin. nil: nobody objects.
	Large func(ctx context.Context) error
}

// Disk is a slipway disk with both of its volumes mounted.
type Disk struct {
	Path         string // /dev/vda
	ID           bootdisk.GUID
	Store, State string // mount points
	Record       Record
	Active       bool // it starts by itself
	// Runs is the slot whose content the node uses: Record.Slot, which the loaders
	// take first, but for a trial and for a slot that could not be loaded.
	Runs bootdisk.Slot

	m    Machine
	plan *bootdisk.Disk
}

// Owner is who a disk is installed for.
type Owner struct {
	Node, Instance string
}

// ID is the GUID of the disk that an owner is installed on: always the same, so
// that a disk that was only just begun is known again.
func (o Owner) ID() bootdisk.GUID {
	var g bootdisk.GUID
	sum := sha256.Sum256(fmt.Appendf(nil, "slipway disk 1\x00%s\x00%s", o.Node, o.Instance))
	copy(g[:], sum[:])
	return bootdisk.NewGUID(g)
}

// Begin makes a disk the owner's, from whatever it was, or goes on where an
// earlier try stopped. A disk with a Mark begins anew. content is the number of
// bytes of a bundle. What is on the disk is lost: consent is the caller's business.
func Begin(ctx context.Context, m Machine, path string, o Owner, content int64, loaders map[string][]byte) (*Disk, error) {
	dev, err := open(path)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	plan, err := bootdisk.Plan(m.Arch, dev.geometry, o.ID(), content)
	if err != nil {
		return nil, tooSmall(path, err)
	}
	d := &Disk{Path: path, ID: o.ID(), m: m, plan: plan, Store: filepath.Join(m.Mounts, "store"), State: filepath.Join(m.Mounts, "state")}
	if again, err := d.resume(ctx, dev); err != nil || again {
		return d, err
	}
	if err := d.divide(ctx, dev, loaders); err != nil {
		return nil, failed(path, err)
	}
	if err := d.format(ctx); err != nil {
		return nil, err
	}
	d.Record = Record{Format: 1, Node: o.Node, Instance: o.Instance, Progress: Writing, Slot: bootdisk.A}
	d.Runs = d.Record.Slot
	if err := d.save(); err != nil {
		d.Unmount()
		return nil, failed(path, err)
	}
	return d, nil
}

// resume mounts what an earlier try left, if that was far enough: the record is
// written after both file systems were made.
func (d *Disk) resume(ctx context.Context, dev *device) (bool, error) {
	found, err := bootdisk.Read(dev, dev.geometry)
	if errors.Is(err, bootdisk.ErrNone) || err == nil && found.Disk.ID() != d.ID {
		return false, nil
	}
	if err != nil {
		return false, failed(d.Path, err)
	}
	planned := d.plan
	d.plan = found.Disk // a bundle of another size would be given other places
	d.Active = found.Active
	err = d.mount(ctx)
	if err == nil && d.Record.Ends != "" {
		d.m.Tell(fmt.Sprintf("%s: its %s was ordered: from the start", d.Path, d.Record.Ends))
		d.Unmount()
		d.plan = planned
		return false, nil
	}
	if err == nil {
		d.m.Tell(fmt.Sprintf("%s: going on with %s", d.Path, d.Record))
		return true, nil
	}
	if found.Active {
		return false, report.Fail("SW-INSTALL-STORE", "look at the disk with e2fsck; to lose what is on it, wipe it and start the machine again",
			fmt.Errorf("%s is an installed node's and cannot be used: %w", d.Path, err))
	}
	d.plan = planned
	d.m.Tell(fmt.Sprintf("%s: an earlier try was cut short (%v): from the start", d.Path, err))
	return false, nil
}

// divide writes the tables and the loaders' file systems, over whatever the disk
// was, as far as that can be undone.
func (d *Disk) divide(ctx context.Context, dev *device, loaders map[string][]byte) error {
	d.Active = false
	if _, err := os.Stat("/" + layout.Mke2fs); err != nil {
		return report.Fail("SW-INSTALL-TOOLS", "add e2fsprogs to the bundle's packages and build the image again",
			fmt.Errorf("the image has no /%s", layout.Mke2fs))
	}
	groups, err := d.quick(dev, loaders)
	if err != nil {
		return err
	}
	if d.m.Save != nil {
		if err := d.m.Save(ctx, dev, dev.geometry.Size, places(groups)); err != nil {
			return err
		}
	}
	for _, group := range groups {
		if err := dev.write(group); err != nil {
			return err
		}
	}
	if d.m.Partition == nil {
		if err := dev.reread(); err != nil {
			return err
		}
	}
	if d.m.Large != nil {
		return d.m.Large(ctx)
	}
	return nil
}

// journalMB is the size of each volume's journal: ample for a node, which writes
// large files and few names.
const journalMB = "64"

// format makes both file systems and mounts them.
func (d *Disk) format(ctx context.Context) error {
	for _, p := range []bootdisk.Partition{d.plan.Store(), d.plan.State()} {
		dev, err := d.m.partition(ctx, d.Path, p)
		if err != nil {
			return err
		}
		// No blocks kept back for root: both volumes are slipway's alone. The journal is
		// zeroed now, and mke2fs makes it 1 GiB where a disk has more than 128.
		argv := []string{"/" + layout.Mke2fs, "-q", "-F", "-t", "ext4", "-m", "0", "-J", "size=" + journalMB, "-L", p.Name, "-U", p.ID.String(), dev}
		if d.m.Rest { // mke2fs has an SSD forget all of the volume else: what was saved would lead to nothing
			argv = slices.Insert(argv, len(argv)-1, "-E", "nodiscard")
		}
		if err := d.m.Run(ctx, argv); err != nil {
			return report.Fail("SW-INSTALL-WRITE", "the disk does not take what is written to it: replace it", fmt.Errorf("%s: making a file system on %s: %w", d.Path, dev, err))
		}
	}
	return d.mountVolumes(ctx)
}

// mount mounts both volumes of a disk that has a record.
func (d *Disk) mount(ctx context.Context) error {
	if err := d.mountVolumes(ctx); err != nil {
		return err
	}
	r, err := readRecord(d.Store)
	if err != nil {
		d.Unmount()
		return err
	}
	d.Record, d.Runs = r, r.Slot
	return nil
}

func (d *Disk) mountVolumes(ctx context.Context) error {
	if err := d.m.Load("ext4"); err != nil {
		return report.Fail("SW-MODULES-MISSING", "build the image again: its kernel lacks a module that a node needs", err)
	}
	for _, v := range []struct {
		p  bootdisk.Partition
		at string
	}{{d.plan.Store(), d.Store}, {d.plan.State(), d.State}} {
		if err := d.mountVolume(ctx, v.p, v.at); err != nil {
			d.Unmount() // with one of them mounted the disk could not be divided again
			return err
		}
	}
	return nil
}

func (d *Disk) mountVolume(ctx context.Context, p bootdisk.Partition, at string) error {
	dev, err := d.m.partition(ctx, d.Path, p)
	if err != nil {
		return err
	}
	if err := d.check(ctx, dev); err != nil {
		return err
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, at, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", dev, err)
	}
	return nil
}

// check repairs what can be without losing anything (e2fsck -p): the kernel
// replays the journal itself, but does not heal what was found broken before.
func (d *Disk) check(ctx context.Context, dev string) error {
	if _, err := os.Stat("/" + layout.E2fsck); err != nil {
		return nil //nolint:nilerr // a bundle without it: the kernel's own checks are left
	}
	// No phase's limit ends it: what is half checked must not be mounted, and the next
	// try would begin anew.
	ctx = context.WithoutCancel(ctx)
	defer d.patiently(dev)()
	err := d.m.Run(ctx, []string{"/" + layout.E2fsck, "-p", dev})
	var code interface{ ExitCode() int }
	if errors.As(err, &code) && code.ExitCode() == 8 {
		// A power cut between the superblock's two sectors, which the kernel
		// writes at every mount and unmount: -p takes no backup of it, -y does.
		// There is no backup of an earlier file system that it could take: Begin
		// emptied their places.
		err = d.m.Run(ctx, []string{"/" + layout.E2fsck, "-y", dev})
	}
	if errors.As(err, &code) && code.ExitCode() > 0 && code.ExitCode() <= 3 { // repaired (e2fsck(8)); a signal's is -1
		d.m.Tell(dev + ": e2fsck repaired it")
		return nil
	}
	if err != nil {
		return fmt.Errorf("checking %s: %w", dev, err)
	}
	return nil
}

// patiently says that a volume is being checked, until end is called.
func (d *Disk) patiently(dev string) (end func()) {
	began, ended := time.Now(), make(chan struct{})
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(10 * time.Second):
				d.m.Tell(fmt.Sprintf("%s: e2fsck checks it for %.0f s: leave the machine on", dev, time.Since(began).Seconds()))
			}
		}
	}()
	return func() { close(ended) }
}

// Unmount lets go of both volumes.
func (d *Disk) Unmount() {
	for _, at := range []string{d.State, d.Store} {
		_ = unix.Unmount(at, 0)
	}
}

func tooSmall(path string, err error) error {
	if s, ok := errors.AsType[*bootdisk.TooSmallError](err); ok {
		return report.Fail("SW-INSTALL-SMALL", "take a larger disk, or a smaller bundle", fmt.Errorf("%s: %w", path, s))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// failed gives an error of writing its code.
func failed(path string, err error) error {
	switch _, coded := errors.AsType[*report.Failure](err); {
	case err == nil || coded || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOSPC):
		return report.Fail("SW-INSTALL-FULL", "take a larger disk, or wipe this one", fmt.Errorf("%s: %w", path, err))
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EROFS):
		return report.Fail("SW-INSTALL-WRITE", "the disk does not take what is written to it: replace it", fmt.Errorf("%s: %w", path, err))
	case errors.Is(err, unix.EBADMSG), errors.Is(err, unix.EUCLEAN): // EFSBADCRC and EFSCORRUPTED of ext4 (fs/ext4/ext4.h)
		return report.Fail("SW-INSTALL-VERIFY", "the disk does not keep what is written to it: replace it", fmt.Errorf("%s: %w", path, err))
	case errors.Is(err, unix.EBUSY):
		return report.Fail("SW-INSTALL-BUSY", "unmount what is on the disk, or start the machine again", fmt.Errorf("%s: %w", path, err))
	case errors.Is(err, fs.ErrNotExist):
		return report.Fail("SW-INSTALL-GONE", "look at the disk's cable, then start the machine again", fmt.Errorf("%s: %w", path, err))
	}
	return fmt.Errorf("%s: %w", path, err)
}
