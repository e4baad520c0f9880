package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/bootdisk"
)

// startedFrom finds the disk of slipway.disk=, and the bundle in its slot.
func (n *Node) startedFrom(ctx context.Context) error {
	slot := bootdisk.Slot(n.Cmdline.Slot)
	if slot != bootdisk.A && slot != bootdisk.B {
		return report.Fail("SW-CMDLINE", "correct the boot entry", fmt.Errorf("slipway.slot=%q: want a or b", n.Cmdline.Slot))
	}
	began, told := time.Now(), 0*time.Second
	for {
		_, changed := n.drivers.block()
		d, err := n.ownDisk(ctx, func(f install.Found) bool { return f.ID.String() == n.Cmdline.Disk }, nil)
		if err != nil {
			return err
		}
		if d != nil {
			return n.useSlot(d, slot)
		}
		select {
		case <-ctx.Done():
			return report.Fail("SW-DISK-MISSING", "connect the disk again, or start the machine from an install medium; the node goes on looking",
				fmt.Errorf("no disk %s for %.0f s", n.Cmdline.Disk, time.Since(began).Seconds()))
		case <-changed:
		case <-time.After(500 * time.Millisecond):
		}
		if w := time.Since(began); w-told >= 5*time.Second {
			told = w
			n.step("wait", fmt.Sprintf("looking for disk %s for %.0f s", n.Cmdline.Disk, w.Seconds()), nil)
		}
	}
}

// useSlot takes content from a slot of the node's own disk.
func (n *Node) useSlot(d *install.Disk, s bootdisk.Slot) error {
	b, err := readBundle(d.Slot(s), n.key)
	if err != nil {
		d.Unmount()
		return report.Fail("SW-INSTALL-STORE", "start the machine from its install medium to write the disk again", fmt.Errorf("%s, slot %s: %w", d.Path, s, err))
	}
	b.Manifest = install.Plain(b.Manifest)
	d.Runs, n.disk = s, d
	if err := n.useBundle(b); err != nil {
		return err
	}
	n.done(fmt.Sprintf("bundle %q serial %d, Kubernetes %s, on %s, slot %s", b.Manifest.Name, b.Manifest.Serial, b.Manifest.Kubernetes, d.Path, s),
		map[string]any{"device": filepath.Base(d.Path), "slot": string(s), "bundle": b.Manifest.Name, "serial": b.Manifest.Serial, "blobs": len(b.Manifest.Blobs)})
	return nil
}

// ownDisk opens the one disk with slipway's tables that fits, nil without one. Of
// more than its tables a disk is only looked at until it is known to fit: another
// node may run from it. One that cannot be looked at is opened if it is the only
// one. Without fits the tables decide.
func (n *Node) ownDisk(ctx context.Context, looks func(install.Found) bool, fits func(*install.Disk) bool) (*install.Disk, error) {
	paths, err := n.paths()
	if err != nil {
		return nil, err
	}
	all := slices.DeleteFunc(install.Find(paths), func(f install.Found) bool { return !looks(f) })
	if fits == nil && len(all) == 1 {
		return n.openDisk(ctx, all[0])
	}
	var own []install.Found
	var hurt error
	for _, f := range all {
		ok := false
		err := install.Look(ctx, n.hardware.machine(), f, func(d *install.Disk) { ok = fits == nil || fits(d) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.log.Warn("a disk that cannot be looked at", "path", f.Path, "active", f.Active, "err", err)
			ok = len(all) == 1
			if f.Active {
				hurt = err
			}
		}
		if ok {
			own = append(own, f)
		}
	}
	switch {
	case len(own) > 1:
		return nil, report.Fail("SW-DISK-AMBIGUOUS", "unplug all but one", fmt.Errorf("%s and %s both say that they are this machine's", own[0].Path, own[1].Path))
	case len(own) == 0 && hurt != nil:
		return nil, report.Fail("SW-DISK-UNUSABLE", "unplug the slipway disks that are another machine's; this one's is repaired when it is the only one",
			fmt.Errorf("another slipway disk is there, and nothing was written to this one, which may be this machine's: %w", hurt))
	case len(own) == 0:
		return nil, nil
	}
	d, err := n.openDisk(ctx, own[0])
	if d != nil && fits != nil && !fits(d) { // by its journal
		d.Unmount()
		return nil, nil
	}
	return d, err
}

// openDisk mounts a disk that is the node's, nil when it was only begun.
func (n *Node) openDisk(ctx context.Context, f install.Found) (*install.Disk, error) {
	d, err := install.Open(ctx, n.hardware.machine(), f)
	switch _, coded := errors.AsType[*report.Failure](err); {
	case err == nil:
		return d, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case !f.Active: // begun, and cut short before its file systems were made
		n.log.Warn("a disk that does not start", "path", f.Path, "err", err)
		return nil, nil
	case coded:
		return nil, err
	}
	return nil, report.Fail("SW-DISK-UNUSABLE", "look at the disk with e2fsck, or wipe it to install the node again", err)
}

// paths are those of all disks.
func (n *Node) paths() (out []string, err error) {
	all, err := n.hardware.disks()
	for _, d := range all {
		out = append(out, d.Path)
	}
	return out, err
}

// knownDisk finds the disk that this machine was being installed on, or is
// installed on, under the seed of slipway.seed=: a machine that starts from the
// network first does not become another one, and nobody has to approve it again.
func (n *Node) knownDisk(ctx context.Context) error {
	var kept enrol.Kept
	d, err := n.ownDisk(ctx, func(install.Found) bool { return true }, func(d *install.Disk) bool {
		kept = enrol.Kept{}
		ok, err := d.Enrolment(&kept)
		if err != nil {
			n.log.Warn("a disk's enrolment", "path", d.Path, "err", err)
		}
		return ok && err == nil && (kept.Pin() == n.Cmdline.Pin || n.Cmdline.Pin == "" && kept.Seed == n.Cmdline.Seed)
	})
	if err != nil {
		return err
	}
	if d == nil {
		n.noted()
		return nil
	}
	if d.Record.Ends != "" {
		return n.endOf(ctx, d, kept)
	}
	n.disk = d
	n.step("disk", fmt.Sprintf("%s is this machine's: %s", d.Path, d.Record), nil)
	return nil
}

// installedDisk is the disk of a machine that was started from a medium without
// a config, although it has been installed: it starts as it would without the medium.
func (n *Node) installedDisk(ctx context.Context) (*install.Disk, error) {
	if n.Cmdline.Config != "" {
		return nil, nil
	}
	d, err := n.ownDisk(ctx, func(install.Found) bool { return true }, func(d *install.Disk) bool {
		return d.Active && d.Record.Progress == install.Installed || d.Record.Ends == install.Reset // which a reset ends first
	})
	if d != nil {
		n.step("disk", fmt.Sprintf("no config, and %s is installed: %s", d.Path, d.Record), nil)
	}
	return d, err
}

// ownConfig is the one that the node's disk keeps; no other is looked for.
func (n *Node) ownConfig() error {
	if n.disk.Record.Ends == install.Reset {
		return n.goOnResetting()
	}
	files, err := n.disk.Config()
	if err == nil && files["user-data"] == nil && files["cluster.yaml"] == nil {
		err = errors.New("it has no config")
	}
	if err != nil {
		return report.Fail("SW-INSTALL-STORE", "start the machine from its install medium to write the disk again", fmt.Errorf("%s: %w", n.disk.Path, err))
	}
	r := raw{source: "its own disk " + n.disk.Path, files: files}
	if r, err = n.becomeSeed(r); err == nil {
		err = n.parse(r)
	}
	if err != nil {
		return report.Fail("SW-CONFIG-INVALID", "this version reads less than the one that stored it: start the other slot", fmt.Errorf("%s: %w", r.source, err))
	}
	if err := r.store(); err != nil {
		return err
	}
	if err := n.resumeEnrolment(); err != nil {
		return err
	}
	n.done("from "+r.source, map[string]any{"source": r.source})
	return nil
}

// resumeEnrolment goes on with the conversation that the disk's node had with
// its seed. A seed that has gone for ever is not waited for.
func (n *Node) resumeEnrolment() error {
	var kept enrol.Kept
	ok, err := n.disk.Enrolment(&kept)
	if err != nil {
		return report.Fail("SW-INSTALL-STORE", "start the machine from its install medium to write the disk again", fmt.Errorf("%s: %w", n.disk.Path, err))
	}
	if !ok {
		n.Report.Also(nil)
		return nil
	}
	if n.enrol, err = enrol.Resume(kept, func(e handoff.Event) { n.Report.Emit(e) }); err != nil {
		return err
	}
	n.own("config", "events", func(ctx context.Context) { n.enrol.Events(ctx, n.sink) })
	return nil
}

// useDisk takes content from the node's disk from here on, in place.
func (n *Node) useDisk(m *lock.Manifest) {
	n.Manifest = install.Plain(m)
	n.Store = &blobs.Store{Source: blobs.Dir(n.disk.Slot(n.disk.Runs)), Memory: memoryDir}
}
