package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
)

// Bundle is a manifest as it was signed, and where its blobs are.
type Bundle struct {
	Manifest       *lock.Manifest
	Raw, Signature []byte
	From           blobs.Source
}

// Slot is the root of a slot's tree, which is a medium's: whoever reads media
// reads it.
func (d *Disk) Slot(s bootdisk.Slot) string { return filepath.Join(d.Store, slotsDir, string(s)) }

// Blob is the file of a blob in a slot.
func (d *Disk) Blob(s bootdisk.Slot, b lock.Blob) string {
	return filepath.Join(d.Slot(s), filepath.FromSlash(medium.Path(plain(b))))
}

// plain is the blob as a disk has it, whatever its medium did.
func plain(b lock.Blob) lock.Blob {
	b.Frames = nil
	return b
}

// Plain is a manifest of blobs as they are on a disk.
func Plain(m *lock.Manifest) *lock.Manifest {
	out := *m
	out.Blobs = nil
	for _, b := range m.Blobs {
		out.Blobs = append(out.Blobs, plain(b))
	}
	return &out
}

// Fill brings a bundle into a slot: blobs that the other slot has are linked,
// the others copied and synced. progress gets plain bytes.
func (d *Disk) Fill(ctx context.Context, s bootdisk.Slot, b Bundle, progress func(done, total int64)) error {
	var mu sync.Mutex
	var total, done int64
	var lists, content []lock.Blob
	seen := map[string]bool{} // two blobs may be one file
	for _, blob := range b.Manifest.Blobs {
		if to := d.Blob(s, blob); !seen[to] {
			seen[to] = true
			total += blob.Size
			if blob.Role == lock.RoleBlocks {
				lists = append(lists, blob)
			} else {
				content = append(content, blob)
			}
		}
	}
	// Two at a time: one is read and compared while the disk confirms the other.
	for _, some := range [][]lock.Blob{lists, content} {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(2)
		for _, blob := range some {
			g.Go(func() error {
				var has int64 // of this blob
				return d.bring(ctx, s, b, blob, func(n int64) {
					mu.Lock()
					defer mu.Unlock()
					done += n - has
					has = n
					progress(done, total)
				})
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	for name, raw := range map[string][]byte{layout.Manifest: b.Raw, layout.Signature: b.Signature} {
		if err := WriteFile(filepath.Join(d.Slot(s), name), raw, 0o444); err != nil {
			return failed(d.Path, err)
		}
	}
	return failed(d.Path, syncFS(d.Store))
}

// bring makes a slot have a blob.
func (d *Disk) bring(ctx context.Context, s bootdisk.Slot, of Bundle, b lock.Blob, progress func(int64)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.settle(s, b); err != nil {
		return failed(d.Path, err)
	}
	base, done := d.base(s, of.Manifest, b)
	defer done()
	err := blobs.Copy(ctx, of.From, b, base, d.Blob(s, b), progress)
	if w, ours := errors.AsType[*blobs.WriteError](err); ours {
		return failed(d.Path, w)
	}
	return err
}

// base is the other slot's version of a blob, nil when that does not say which
// blocks it has.
func (d *Disk) base(s bootdisk.Slot, m *lock.Manifest, b lock.Blob) (base *blobs.Base, done func()) {
	done = func() {}
	list, ok := m.BlocksOf(b)
	if !ok {
		return nil, done
	}
	var other lock.Manifest
	raw, err := os.ReadFile(filepath.Join(d.Slot(s.Other()), layout.Manifest))
	if err != nil || json.Unmarshal(raw, &other) != nil {
		return nil, done
	}
	for _, old := range other.Blobs {
		oldList, ok := other.BlocksOf(old)
		if !ok || old.Name != b.Name {
			continue
		}
		had, err1 := os.ReadFile(d.Blob(s.Other(), oldList))
		has, err2 := os.ReadFile(d.Blob(s, list))
		f, err3 := os.Open(d.Blob(s.Other(), old))
		if err := errors.Join(err1, err2, err3); err != nil {
			d.m.Tell(fmt.Sprintf("all of %s is brought: %v", b.Name, err))
			break
		}
		return blobs.NewBase(f, had, has), func() { f.Close() }
	}
	return nil, done
}

// settle links what the other slot has of a blob. A kernel and its initramfs have
// the same names in every bundle: a file of the right size may be another's.
func (d *Disk) settle(s bootdisk.Slot, b lock.Blob) error {
	from, to := d.Blob(s.Other(), b), d.Blob(s, b)
	if !strings.HasSuffix(to, string(b.SHA256)) {
		if !holds(to, b) {
			if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if !holds(from, b) {
			return nil
		}
	}
	return share(from, to, b.Size)
}

// holds says whether a file is a blob.
func holds(name string, b lock.Blob) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	sum, _, err := lock.Sum(f)
	return err == nil && sum == b.SHA256
}

// share makes the other slot's file this slot's too. Both names are of one
// file: what is verified under one is under the other.
func share(from, to string, size int64) error {
	if fi, err := os.Stat(from); err != nil || fi.Size() != size {
		return nil //nolint:nilerr // the other slot does not have it
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.Link(from, to); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// syncFS writes a file system out with its disk's cache (syncfs(2)).
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("%s: syncfs: %w", dir, err)
	}
	return nil
}

// Startable puts a slot's kernel and initramfs where loaders find them, and
// reads both back from the disk. Which slot is the default does not change.
func (d *Disk) Startable(s bootdisk.Slot, m *lock.Manifest, c boot.Cmdline) error {
	dev, err := open(d.Path)
	if err != nil {
		return err
	}
	defer dev.Close()
	kernel, err := m.Find(lock.RoleKernel)
	if err != nil {
		return report.Fail("SW-MEDIUM-MANIFEST", "build the image again", err)
	}
	ram, err := m.Find(lock.RoleInitramfs)
	if err != nil {
		return report.Fail("SW-MEDIUM-MANIFEST", "build the image again", err)
	}
	c.Disk, c.Slot = d.ID.String(), string(s)
	meta, err := d.plan.Fill(s, kernel.Size, ram.Size, c.String())
	if err != nil {
		return failed(d.Path, err)
	}
	// No loader that falls back may find half of what comes.
	if err := dev.write(d.plan.Clear(s)); err != nil {
		return failed(d.Path, err)
	}
	atKernel, atRAM := d.plan.Area(s)
	for _, p := range []struct {
		blob lock.Blob
		to   bootdisk.Extent
	}{{kernel, atKernel}, {ram, atRAM}} {
		if err := d.place(dev, s, p.blob, p.to); err != nil {
			return failed(d.Path, fmt.Errorf("writing %s: %w", p.blob.Name, err))
		}
	}
	return failed(d.Path, dev.write(meta))
}

// place copies a blob of a slot's tree to an extent and compares what the disk
// gives back.
func (d *Disk) place(dev *device, s bootdisk.Slot, b lock.Blob, to bootdisk.Extent) error {
	if b.Size > to.Size {
		return fmt.Errorf("%d bytes do not fit into %d", b.Size, to.Size)
	}
	f, err := os.Open(d.Blob(s, b))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(io.NewOffsetWriter(dev, to.At), io.NewSectionReader(f, 0, b.Size)); err != nil {
		return err
	}
	if err := dev.write(nil); err != nil {
		return err
	}
	sum, n, err := lock.Sum(io.NewSectionReader(dev, to.At, b.Size))
	if err == nil && (sum != b.SHA256 || n != b.Size) {
		err = report.Fail("SW-INSTALL-VERIFY", "the disk does not keep what is written to it: replace it",
			fmt.Errorf("blob %q: read back %s, want %s", b.Name, sum, b.SHA256))
	}
	return err
}

// Finish makes the disk start slot s by itself. The caller has read all of the
// slot's content back from the disk.
func (d *Disk) Finish(s bootdisk.Slot, m *lock.Manifest) error {
	dev, err := open(d.Path)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := syncFS(d.State); err != nil {
		return failed(d.Path, err)
	}
	d.Record.Progress, d.Record.Slot = Installed, s
	d.Record.Bundle = title(m)
	if err := d.save(); err != nil {
		return failed(d.Path, err)
	}
	if err := dev.write(d.plan.Default(s)); err != nil {
		return failed(d.Path, err)
	}
	if d.Active {
		return nil
	}
	if err := dev.forgetNote(); err != nil { // a seed's node has no note any more
		return failed(d.Path, err)
	}
	if err := d.mbrCode(s, m); err != nil {
		return failed(d.Path, err)
	}
	if err := dev.write(d.plan.Activate()); err != nil {
		return failed(d.Path, err)
	}
	d.Active = true
	return nil
}

// mbrCode is the code of the MBR from the slot's own content.
func (d *Disk) mbrCode(s bootdisk.Slot, m *lock.Manifest) error {
	for _, b := range m.Blobs {
		if b.Role != lock.RoleDiskLoader || path.Base(b.Name) != "isohdpfx.bin" {
			continue
		}
		raw, err := os.ReadFile(d.Blob(s, b))
		if err != nil {
			return err
		}
		return d.plan.Code(raw)
	}
	return d.plan.Code(nil)
}

// Bad takes a blob that was read back wrong out of a slot, so that another try
// brings it again.
func (d *Disk) Bad(s bootdisk.Slot, b lock.Blob) error {
	err := os.Remove(d.Blob(s, b))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
