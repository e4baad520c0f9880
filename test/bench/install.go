package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
)

// benchDisk is the size of the disks that nodes are put on, small for a server:
// the peer that copies all of it takes longer in proportion to it.
const benchDisk = 16 << 30

// measureInstall puts the same node on a disk in three ways: slipway's installer
// from a medium, dd of a finished disk's image, and bmaptool of that image, which
// leaves out what nobody wrote. Each ends when the disk has everything.
func (w *work) measureInstall(ctx context.Context) ([]*comparison, error) {
	if os.Geteuid() != 0 {
		fmt.Println("installing to a disk: not measured: block devices need root")
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
	ours := side{Name: "slipway's installer", argv: append(w.self("install"), "-medium", w.netboot, "-disk", disk.dev), prep: disk.anew}
	all := []*comparison{
		{What: fmt.Sprintf("a node onto a disk of %d GiB, against its image", benchDisk>>30), Goal: 20, Ours: ours,
			Peer: side{Name: "dd bs=4M conv=fsync", argv: []string{"dd", "if=" + image, "of=" + disk.dev, "bs=4M", "conv=fsync"}, prep: disk.anew}},
		{What: "the same, against what is not a hole", Goal: 1, Ours: ours,
			Peer: side{Name: "bmaptool copy", argv: []string{"bmaptool", "copy", image, disk.dev}, prep: disk.anew}},
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
	if err := sparse(d.file); err != nil {
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

func sparse(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(benchDisk), f.Close())
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

// golden is the image of a disk that slipway installed.
func (w *work) golden(ctx context.Context, name string) error {
	if err := sparse(name); err != nil {
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
	err = d.Fill(ctx, bootdisk.A, b, func(int64, int64) {})
	if err == nil {
		err = d.Startable(bootdisk.A, b.Manifest, boot.Cmdline{Consoles: []string{"tty0"}})
	}
	if err == nil {
		err = d.Finish(bootdisk.A, b.Manifest)
	}
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
			dev, err := losetup(ctx, "--offset", fmt.Sprint(p.First), "--sizelimit", fmt.Sprint(p.Size), disk)
			if err == nil {
				devs = append(devs, dev)
			}
			return dev, err
		}}, done, nil
}
