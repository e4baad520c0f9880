package firstboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/root"
	"slipway.dev/slipway/firstboot/undo"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/layout"
)

// installPhase puts the node on its disk, or finds that it is there already.
// What it writes is read back by the phases that use it: system.erofs before it
// is mounted, the rest before kubeadm; see installed.
func installPhase(ctx context.Context, n *Node) error {
	if n.disk != nil && n.disk.Record.Ends != "" {
		return n.goOnReimaging(ctx)
	}
	if err := n.staysOnItsDisk(); err != nil {
		return err
	}
	if err := n.stands(ctx); err != nil {
		return err
	}
	if err := n.judgeTrial(); err != nil {
		return err
	}
	n.unsettled = n.unsettledTrial()
	if n.disk != nil && n.disk.Active && n.disk.Record.Progress == install.Installed {
		n.active("starts this machine: " + n.disk.Record.String())
	}
	if n.Cmdline.Disk != "" && !n.writing() {
		n.done(fmt.Sprintf("on %s since it was installed, slot %s", n.disk.Path, n.Cmdline.Slot), nil)
		return nil
	}
	if n.disk != nil && !n.writing() {
		return n.runFrom(n.disk)
	}
	if n.disk == nil && !n.installs() {
		n.done("the config names no disk: the node lives in memory and on its boot medium", nil)
		return n.bring()
	}
	if n.disk == nil { // else the first write to it was long ago
		if err := n.beforeInstall(ctx); err != nil {
			return err
		}
	}
	n.stopSystem()
	d, err := n.beginInstall(ctx)
	if err != nil {
		return err
	}
	n.disk = d // its volumes are mounted: a second try goes on with it
	if !n.writing() {
		return n.runFrom(d)
	}
	if err := n.settleOn(ctx, d); err != nil {
		return err
	}
	began, told := time.Now(), time.Now()
	err = d.Fill(ctx, d.Runs, n.bundle, func(done, total int64) {
		if time.Since(told) < 3*time.Second && done < total {
			return
		}
		told = time.Now()
		n.Report.Emit(handoff.Event{Phase: "install", Step: "write", State: handoff.Running, Text: fmt.Sprintf("%s: %d of %d MB, %.0f s", d.Path, done/1e6, total/1e6, time.Since(began).Seconds()),
			Data: map[string]any{"bytes": done, "total": total}})
	})
	if err != nil {
		return storeFailure(err)
	}
	if err := d.Startable(d.Runs, n.Manifest, n.diskCmdline()); err != nil {
		return err
	}
	return n.runFrom(d)
}

// stands finds the node on the disk that its config chooses, for a machine that was
// started from a medium with a config although it is installed. From there on it is
// a start from that disk: with what an upgrade left, or an order that ends the node.
func (n *Node) stands(ctx context.Context) error {
	if n.disk != nil || n.enrol != nil || !n.installs() { // knownDisk has looked
		return nil
	}
	chosen, err := n.choose()
	if err != nil {
		return err
	}
	for _, f := range install.Find([]string{chosen.Path}) {
		if f.ID != n.owner().ID() {
			continue
		}
		if n.disk, err = n.openDisk(ctx, f); err != nil { // an installed node's: nothing is run that may write to it
			return err
		}
		if n.disk != nil {
			n.step("disk", fmt.Sprintf("%s is this node's: %s", n.disk.Path, n.disk.Record), nil)
		}
	}
	switch d := n.disk; {
	case d == nil:
		return nil
	case d.Record.Ends == install.Reset:
		return n.goOnResetting()
	case d.Record.Ends != "":
		return n.goOnReimaging(ctx)
	}
	return nil
}

// choose finds the disk that the config names.
func (n *Node) choose() (disks.Disk, error) {
	all, err := n.hardware.disks()
	if err != nil {
		return disks.Disk{}, err
	}
	var avoid []string
	for _, d := range all {
		if slices.ContainsFunc(n.volumes, d.Has) {
			avoid = append(avoid, d.Name)
		}
	}
	chosen, err := disks.Choose(n.User.Slipway.Install.Disk, all, avoid...)
	if err != nil {
		err = report.Fail("SW-DISK-CHOICE", "correct slipway.install.disk, or the machine's disks; the node looks again by itself", err)
	}
	return chosen, err
}

// beforeInstall runs commands while every disk is still as it was found. They
// see the system that is going to be installed, read-only, from the medium.
func (n *Node) beforeInstall(ctx context.Context) error {
	hooks := n.User.Slipway.Hooks.BeforeInstall
	if len(hooks) == 0 || n.hooked {
		return nil
	}
	if err := n.bring(); err != nil {
		return err
	}
	if err := n.system.wait(ctx); err != nil {
		return storeFailure(err)
	}
	sys, err := n.Manifest.Find(lock.RoleSystem)
	if err != nil {
		return err
	}
	if err := root.Visit(n.Store.Path(sys), base); err != nil {
		return report.Fail("SW-SYSTEM-MOUNT", "build the image again", err)
	}
	defer root.Leave(base)
	err = n.commandsIn(ctx, base, "slipway.hooks.beforeInstall", hooks)
	n.hooked = err == nil
	return err
}

// beginInstall chooses the disk, asks for consent and makes it this node's.
func (n *Node) beginInstall(ctx context.Context) (*install.Disk, error) {
	if n.disk != nil {
		return n.disk, nil
	}
	chosen, err := n.choose()
	if err != nil {
		return nil, err
	}
	if err := n.old.is(chosen); err != nil {
		return nil, err
	}
	owner := n.owner()
	own := n.old.has(chosen.Path) || slices.ContainsFunc(install.Find([]string{chosen.Path}), func(f install.Found) bool { return f.ID == owner.ID() }) ||
		n.enrol == nil && install.NotedFor(chosen.Path, owner) // a seed's node goes by what the note says of its enrolment
	if !own {
		if err := disks.Consent(chosen, n.User.Slipway.Install.Wipe); err != nil {
			return nil, report.Fail("SW-DISK-DATA", "write the disk's serial number into slipway.install.wipe if all of that may be lost, or take another disk", err)
		}
	}
	m, err := n.guarded(ctx, chosen, own)
	if err != nil {
		return nil, err
	}
	loaders, err := n.diskLoaders(ctx)
	if err != nil {
		return nil, err
	}
	var content int64
	for _, b := range n.Manifest.Blobs {
		content += b.Size
	}
	d, err := install.Begin(ctx, m, chosen.Path, owner, content, loaders)
	if err != nil {
		return nil, err
	}
	n.step("disk", fmt.Sprintf("%s: %d GB, model %q, serial %q: node %s is installed on it", d.Path, chosen.Size/1e9, chosen.Model, chosen.Serial, owner.Node),
		map[string]any{"device": filepath.Base(d.Path), "serial": chosen.Serial, "size": chosen.Size})
	return d, nil
}

// guarded is the machine for install.Begin. What a disk holds that is not this
// node's own is kept at the seed before it is overwritten, and given back when the
// operator says so; see package undo. A disk that was begun before is asked after.
func (n *Node) guarded(ctx context.Context, chosen disks.Disk, own bool) (install.Machine, error) {
	m := n.noting()
	if err := n.guard.Over(); err != nil {
		return m, err
	}
	if !own && len(chosen.Holds) == 0 {
		return m, nil
	}
	if n.enrol == nil {
		if !own {
			n.step("disk", chosen.Path+": no seed keeps what it holds: there is no undoing its wipe", nil)
		}
		return m, nil
	}
	if n.guard == nil || n.guard.Disk() != chosen.Path {
		n.guard = undo.New(n.hardware.keeper(), chosen, n.Hostname, func(text string) { n.step("undo", text, nil) })
	}
	if own || n.guard.Began() {
		if err := n.guard.Again(ctx); err != nil {
			return m, err
		}
	}
	if !own {
		m.Save = n.guard.Save
	}
	m.Large, m.Rest = n.guard.Large, n.old.marked != chosen.Path
	return m, nil
}

// owner is whose disk this node's is.
func (n *Node) owner() install.Owner {
	return install.Owner{Node: n.Hostname, Instance: n.instance().ID}
}

// settleOn stores what the node is on its disk. Only then does the seed hear
// that the config was taken: a power cut before it leaves the enrolment open,
// and one after it finds both there.
func (n *Node) settleOn(ctx context.Context, d *install.Disk) error {
	if err := d.KeepConfig(n.files); err != nil {
		return err
	}
	if n.enrol == nil {
		return nil
	}
	kept, err := n.enrol.Keep()
	if err == nil {
		err = d.KeepEnrolment(kept)
	}
	if err != nil {
		return err
	}
	return n.enrol.Taken(ctx)
}

// runFrom makes the disk where the node runs from, in this same boot.
func (n *Node) runFrom(d *install.Disk) error {
	raw, err := os.ReadFile(filepath.Join(d.Slot(d.Runs), layout.Manifest))
	if err != nil {
		return report.Fail("SW-INSTALL-STORE", "start the machine from its install medium to write the disk again", err)
	}
	sig, err := os.ReadFile(filepath.Join(d.Slot(d.Runs), layout.Signature))
	if err != nil {
		return report.Fail("SW-INSTALL-STORE", "start the machine from its install medium to write the disk again", err)
	}
	m, err := lock.Open(n.key, raw, sig)
	if err != nil {
		return report.Fail("SW-INSTALL-FOREIGN", "start the machine from its disk, or from a medium of the same bundle", fmt.Errorf("%s, slot %s: %w", d.Path, d.Runs, err))
	}
	n.disk = d
	if other := d.Runs; !sameKernel(m, n.bundle.Manifest) {
		if err := d.Prepare(other, m, n.diskCmdline()); err != nil {
			return report.Fail("SW-INSTALL-KERNEL", "start the machine from its disk", fmt.Errorf("%s runs another kernel than this medium: %w", d.Path, err))
		}
		n.step("kexec", fmt.Sprintf("%s is installed with another bundle, %s %d: starting its kernel", d.Path, m.Name, m.Serial), nil)
		n.end(Kexec)
		return errors.New("the machine did not start the other kernel")
	}
	n.useDisk(m)
	n.done(fmt.Sprintf("%s, slot %s, %s %d; goes on without a restart", d.Path, d.Runs, m.Name, m.Serial),
		map[string]any{"device": filepath.Base(d.Path), "slot": string(d.Runs), "progress": string(d.Record.Progress)})
	return n.bring()
}

// installed makes the disk start by itself, once all of its content was read
// back and is right.
func (n *Node) installed() error {
	if n.disk == nil || n.disk.Record.Progress == install.Installed && n.disk.Active {
		return nil
	}
	n.upgrading.Lock()
	defer n.upgrading.Unlock()
	if err := n.disk.Finish(n.disk.Runs, n.Manifest); err != nil {
		return err
	}
	n.active("was read back and is right: the machine starts from it now")
	return nil
}

// active says which disk starts the machine: once it does, and at each start, since
// a seed that was away may never have heard of it.
func (n *Node) active(text string) {
	n.Report.Emit(handoff.Event{Phase: "install", Step: "active", State: handoff.Done, Text: n.disk.Path + " " + text,
		Data: map[string]any{"device": filepath.Base(n.disk.Path), "disk": n.disk.ID.String()}})
}

// machine is what package install needs of this one.
func (n *Node) machine() install.Machine {
	return install.Machine{Sys: "/sys", Dev: "/dev", Mounts: runDir, Arch: arch.Arch(runtime.GOARCH),
		Run: func(ctx context.Context, argv []string) error {
			return n.Children.Run(ctx, exec.Command(argv[0], argv[1:]...), nil)
		},
		Load: func(name string) error { return n.drivers.get().Load(name) },
		Tell: func(text string) { n.step("disk", text, nil) }}
}

// diskLoaders are the loaders of the bundle, verified, by the names that
// package bootdisk knows them by.
func (n *Node) diskLoaders(ctx context.Context) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, b := range n.bundle.Manifest.Blobs {
		if b.Role != lock.RoleDiskLoader {
			continue
		}
		raw, err := n.Store.Read(ctx, b)
		if err != nil {
			return nil, storeFailure(err)
		}
		out[strings.TrimPrefix(b.Name, "disk/")] = raw
	}
	if len(out) == 0 {
		return nil, report.Fail("SW-INSTALL-TOOLS", "build the image again with this version of slipway", errors.New("the bundle has no loaders for a disk"))
	}
	return out, nil
}

// diskCmdline is what the node's own loader tells its kernel: the consoles and
// what else this boot was told that is not about where it came from.
func (n *Node) diskCmdline() boot.Cmdline {
	return boot.Cmdline{Consoles: n.Cmdline.Consoles, Events: n.Cmdline.Events, Extra: slices.DeleteFunc(slices.Clone(n.Cmdline.Extra), func(a string) bool {
		k, _, _ := strings.Cut(a, "=")
		return slices.Contains([]string{"BOOT_IMAGE", "initrd", "ds", "BOOTIF", "ip"}, k)
	})}
}

// sameKernel: the modules of one bundle's system fit no other kernel.
func sameKernel(a, b *lock.Manifest) bool {
	for _, r := range []lock.Role{lock.RoleKernel, lock.RoleInitramfs} {
		x, err := a.Find(r)
		y, other := b.Find(r)
		if err != nil || other != nil || x.SHA256 != y.SHA256 {
			return false
		}
	}
	return true
}

// installs says that the config wants the node on a disk that it is not on yet.
func (n *Node) installs() bool { return n.disk == nil && len(n.User.Slipway.Install.Disk) > 0 }

// writing says that the node runs from a disk that is not complete yet.
func (n *Node) writing() bool { return n.disk != nil && n.disk.Record.Progress == install.Writing }
