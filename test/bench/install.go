package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
)

// measureInstall puts the same node on a disk in three ways: slipway's installer
// from a medium, dd of a finished disk's image, and bmaptool of that image, which
// leaves out what nobody wrote. Each ends when the disk has everything. Then it
// upgrades the node by one package, against bmaptool of the whole image: what
// systems do that know nothing of what a disk has.
func (w *work) measureInstall(ctx context.Context) ([]*comparison, error) {
	if os.Geteuid() != 0 {
		fmt.Println("installing to a disk: not measured: block devices need root")
		return nil, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(w.dir, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", w.dir, err)
	}
	// The peer that copies all of a disk fills its file; the image is sparse.
	if want, have := w.gib+3, int64(st.Bavail)*st.Bsize>>30; have < want {
		fmt.Printf("installing to a disk: not measured: %s has %d GiB free, want %d; -disk-gib takes a smaller disk, -work another place\n", w.dir, have, want)
		return nil, nil
	}
	disk, err := w.loop(ctx, "disk.img")
	if err != nil {
		return nil, err
	}
	defer disk.close()
	image := w.at("golden.img")
	if err := w.golden(ctx, image); err != nil {
		return nil, fmt.Errorf("the image for the peers: %w", err)
	}
	defer os.Remove(image)
	if _, err := timed(ctx, []string{"bmaptool", "create", "-o", image + ".bmap", image}); err != nil {
		return nil, err
	}
	installer := append(w.self("install"), "-medium", w.netboot, "-disk", disk.dev)
	ours := side{Name: "slipway's installer", argv: installer, prep: disk.anew, moved: disk.used}
	bmap := side{Name: "bmaptool copy", argv: []string{"bmaptool", "copy", image, disk.dev}, prep: disk.anew, moved: disk.used}
	upgrade := side{Name: "slipway upgrade (bytes sent to it)", argv: append(w.self("upgrade"), "-medium", w.next, "-disk", disk.dev), moved: w.asked,
		prep: func() error {
			if err := disk.anew(); err != nil {
				return err
			}
			_, err := timed(ctx, installer)
			return err
		}}
	all := []*comparison{
		{What: fmt.Sprintf("a node onto a disk of %d GiB, against its image", w.gib), Goal: 20, Ours: ours,
			Peer: side{Name: "dd bs=4M conv=fsync", argv: []string{"dd", "if=" + image, "of=" + disk.dev, "bs=4M", "conv=fsync"}, prep: disk.anew, moved: disk.used}},
		{What: "the same, against what is not a hole", Goal: 4, Ours: ours, Peer: bmap},
		{What: "a node with one package less, against what is not a hole", Goal: 4, Ours: upgrade, Peer: bmap},
	}
	for _, c := range all {
		if err := c.alternate(ctx, 3); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// loopDevice is a sparse file as a disk.
type loopDevice struct {
	ctx       context.Context
	dev, file string
}

func (w *work) loop(ctx context.Context, name string) (*loopDevice, error) {
	d := &loopDevice{ctx: ctx, file: w.at(name)}
	if err := w.sparse(d.file); err != nil {
		return nil, err
	}
	var err error
	d.dev, err = losetup(ctx, d.file)
	return d, err
}

func losetup(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "losetup", append([]string{"--find", "--show"}, args...)...).Output()
	if err != nil {
		return "", fmt.Errorf("losetup: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (w *work) sparse(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(w.gib<<30), f.Close())
}

func (d *loopDevice) close() {
	_ = exec.Command("losetup", "--detach", d.dev).Run()
	_ = os.Remove(d.file)
}

// anew makes the disk one that nothing was ever written to.
func (d *loopDevice) anew() error {
	if out, err := exec.CommandContext(d.ctx, "blkdiscard", "--force", d.dev).CombinedOutput(); err != nil {
		return fmt.Errorf("blkdiscard: %w: %s", err, out)
	}
	return exec.CommandContext(d.ctx, "sync").Run()
}

// used is how many bytes of it were ever written, as far as its file knows.
func (d *loopDevice) used() (int64, error) {
	if err := exec.CommandContext(d.ctx, "sync", "-f", d.file).Run(); err != nil {
		return 0, err
	}
	var st unix.Stat_t
	err := unix.Stat(d.file, &st)
	return st.Blocks * 512, err
}

// golden is the image of a disk that slipway installed.
func (w *work) golden(ctx context.Context, name string) error {
	if err := w.sparse(name); err != nil {
		return err
	}
	dev, err := losetup(ctx, name)
	if err != nil {
		return err
	}
	_, err = timed(ctx, append(w.self("install"), "-medium", w.netboot, "-disk", dev))
	return errors.Join(err, exec.Command("losetup", "--detach", dev).Run())
}

// install is our side: everything that the installer does to a disk.
func (w *work) install(ctx context.Context, medium, disk string) error {
	return w.onDisk(ctx, medium, disk, func(d *install.Disk, b install.Bundle) error {
		if err := d.Fill(ctx, bootdisk.A, b, func(int64, int64) {}); err != nil {
			return err
		}
		if err := d.Startable(bootdisk.A, b.Manifest, boot.Cmdline{Consoles: []string{"tty0"}}); err != nil {
			return err
		}
		return d.Finish(bootdisk.A, b.Manifest)
	})
}

// upgrade makes the other slot of an installed disk one that can be started.
func (w *work) upgrade(ctx context.Context, medium, disk string) error {
	return w.onDisk(ctx, medium, disk, func(d *install.Disk, b install.Bundle) error {
		c := &counted{Source: b.From}
		b.From = c
		if err := d.Offer(ctx, install.Trial{Slot: bootdisk.B}, b, boot.Cmdline{Consoles: []string{"tty0"}}, func(int64, int64) {}); err != nil {
			return err
		}
		return os.WriteFile(w.at("asked"), []byte(fmt.Sprint(c.bytes.Load())), 0o644)
	})
}

// asked is what the last upgrade asked its source for, in bytes.
func (w *work) asked() (int64, error) {
	raw, err := os.ReadFile(w.at("asked"))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(raw), 10, 64)
}

// counted counts what is asked of a source.
type counted struct {
	blobs.Source
	bytes atomic.Int64
}

func (c *counted) Open(ctx context.Context, b lock.Blob) (blobs.File, error) {
	f, err := c.Source.Open(ctx, b)
	return countedFile{f, c}, err
}

type countedFile struct {
	blobs.File
	of *counted
}

func (f countedFile) ReadAt(p []byte, at int64) (int, error) {
	f.of.bytes.Add(int64(len(p)))
	return f.File.ReadAt(p, at)
}

// onDisk does something to a disk, one that is begun now or was before, with a
// medium's bundle.
func (w *work) onDisk(ctx context.Context, medium, disk string, do func(*install.Disk, install.Bundle) error) error {
	raw, err := os.ReadFile(filepath.Join(medium, layout.Manifest))
	if err != nil {
		return err
	}
	sig, err := os.ReadFile(filepath.Join(medium, layout.Signature))
	if err != nil {
		return err
	}
	b := install.Bundle{Manifest: new(lock.Manifest), Raw: raw, Signature: sig, From: blobs.Dir(medium)}
	if err := json.Unmarshal(raw, b.Manifest); err != nil {
		return err
	}
	loaders := map[string][]byte{}
	var content int64
	for _, x := range b.Manifest.Blobs {
		content += x.Size
		if x.Role == lock.RoleDiskLoader {
			if loaders[strings.TrimPrefix(x.Name, "disk/")], err = os.ReadFile(b.From.Local(x)); err != nil {
				return err
			}
		}
	}
	m, done, err := w.machine(ctx)
	if err != nil {
		return err
	}
	d, err := install.Begin(ctx, m, disk, install.Owner{Node: "bench", Instance: "bench"}, content, loaders)
	if err != nil {
		return errors.Join(err, done())
	}
	err = do(d, b)
	d.Unmount()
	return errors.Join(err, done())
}

// machine stands a loop device in for each partition: not every kernel reads the
// tables of loop devices. done gives them back.
func (w *work) machine(ctx context.Context) (m install.Machine, done func() error, err error) {
	dir, err := os.MkdirTemp(w.dir, "mounts")
	if err != nil {
		return m, nil, err
	}
	var devs []string
	done = func() error {
		var errs []error
		for _, d := range devs {
			errs = append(errs, exec.Command("losetup", "--detach", d).Run())
		}
		return errors.Join(append(errs, os.RemoveAll(dir))...)
	}
	return install.Machine{Sys: "/sys", Dev: "/dev", Mounts: dir, Arch: arch.AMD64, Tell: func(string) {}, Load: func(string) error { return nil },
		Run: func(ctx context.Context, argv []string) error {
			_, err := timed(ctx, argv)
			return err
		},
		Partition: func(_ context.Context, disk string, p bootdisk.Partition) (string, error) {
			// A partition keeps no second copy of what goes through it.
			dev, err := losetup(ctx, "--direct-io=on", "--offset", fmt.Sprint(p.First), "--sizelimit", fmt.Sprint(p.Size), disk)
			if err == nil {
				devs = append(devs, dev)
			}
			return dev, err
		}}, done, nil
}
