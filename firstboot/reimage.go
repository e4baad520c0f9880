package firstboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
)

// Reimaging has two halves. The node loads the kernel of the seed's installer,
// marks its disk and starts it; all that can be refused is refused before the
// mark. The installer knows the disk by the mark, enrols with the order's token,
// and only then writes. A power cut in between finds the mark, or the note that
// install.Begin leaves.

// reimagePhase is the phase that events of a reimage belong to, whenever they happen.
const reimagePhase = "reimage"

// Limits of the first half.
const (
	manifestLimit  = 2 * time.Minute
	installerLimit = 20 * time.Minute // for kernel and initramfs, 60 MB
)

// word is what may stand in a kernel argument.
var word = regexp.MustCompile(`^[!-~]{1,512}$`)

// reimage follows the order to install this machine anew. It returns only when
// something is in the way; the node is as it was then.
func (n *Node) reimage(ctx context.Context, o handoff.Order) error {
	d := n.disk
	if d == nil || !d.Active {
		return report.Fail("SW-REIMAGE-DISK", "start the machine from the seed's network or another medium to install it",
			errors.New("this node does not start from a disk of its own"))
	}
	m := install.Mark{Verb: install.Reimage, Order: o.ID, Store: strings.TrimRight(o.Store, "/"), Token: o.Token}
	if err := n.nextInstaller(ctx, m); err != nil {
		return err
	}
	if err := d.KeepMark(m); err != nil {
		return err
	}
	n.startInstaller()
	return errors.Join(errors.New("the machine did not start the installer"), d.DropMark())
}

func (n *Node) startInstaller() {
	n.reimageEvent("kexec", fmt.Sprintf("starting the installer; %s is written anew when the seed has let the machine in, no other disk is", n.disk.Path))
	n.end(Kexec)
}

// goOnReimaging is a start from a disk with a mark: the power went before the
// installer had begun.
func (n *Node) goOnReimaging(ctx context.Context) error {
	m, err := n.disk.Mark()
	if err != nil {
		return report.Fail("SW-INSTALL-STORE", "start the machine from its install medium to write the disk again", err)
	}
	n.reimageEvent("mark", "the seed ordered this machine to be installed anew: going on with that")
	if err := n.nextInstaller(ctx, m); err != nil {
		return err
	}
	n.startInstaller()
	return errors.New("the machine did not start the installer")
}

// nextInstaller loads the kernel and the initramfs of the seed's bundle.
func (n *Node) nextInstaller(ctx context.Context, m install.Mark) error {
	if !isURL(m.Store) || !word.MatchString(m.Store) || !word.MatchString(m.Token) {
		return report.Fail("SW-REIMAGE-ORDER", "order it at a seed of this version", fmt.Errorf("the order has no URL and token that the installer could be told: %q", m.Store))
	}
	var kept enrol.Kept
	if ok, err := n.disk.Enrolment(&kept); err != nil || !ok {
		return report.Fail("SW-REIMAGE-SEED", "reset it (slipway reset) and install it from the seed", errors.Join(errors.New("this node keeps no enrolment that says which seed may install it"), err))
	}
	s := n.seedFor(reimagePhase, m.Store)
	b, err := n.installerOf(ctx, s)
	if err != nil {
		return err
	}
	dir := n.hardware.scratch
	defer os.RemoveAll(dir) // the kernel has its own copy
	at := func(b lock.Blob) string { return filepath.Join(dir, string(b.SHA256)) }
	if err := n.fetch(ctx, b, at); err != nil {
		return report.Fail("SW-REIMAGE-FETCH", "check that the seed runs and serves this bundle's netboot files, then order it again", fmt.Errorf("%s: %w", s.Base, err))
	}
	c := n.diskCmdline()
	c.Store, c.Seed, c.Pin, c.Reimage = m.Store, kept.Seed, kept.Pin(), m.Token
	err = n.hardware.kexec(b.Manifest, at, c)
	if _, coded := errors.AsType[*report.Failure](err); coded {
		return err
	}
	return report.Fail("SW-REIMAGE-KEXEC", "start the machine from the network or the install medium by hand: this kernel starts no other (locked down, or the new one is not signed for Secure Boot)", err)
}

// installerOf reads the seed's manifest. An older bundle is refused: whoever
// answers at a URL cannot bring a node back to what has been mended since.
func (n *Node) installerOf(ctx context.Context, s *blobs.Seed) (install.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestLimit)
	defer cancel()
	for {
		b, err := manifestFrom(ctx, s, n.key)
		if f, ok := errors.AsType[*report.Failure](err); ok && f.Code == "SW-SEED-MANIFEST" && !blobs.IsNotFound(err) {
			select {
			case <-ctx.Done():
				return b, err
			case <-time.After(time.Second):
				continue
			}
		}
		if err != nil {
			return b, err
		}
		m, have := b.Manifest, n.Manifest
		switch {
		case m.Arch != have.Arch:
			err = report.Fail("SW-REIMAGE-ARCH", "serve the bundle of this node's architecture", fmt.Errorf("the seed's bundle is for %s, the node is %s", m.Arch, have.Arch))
		case m.Name == have.Name && m.Serial < have.Serial:
			err = report.Fail("SW-REIMAGE-SERIAL", "serve this bundle or a newer one; for an older one reset the node (slipway reset) and install it from that medium",
				fmt.Errorf("the seed serves %s %d, the node runs %d", m.Name, m.Serial, have.Serial))
		}
		return b, err
	}
}

// fetch brings kernel and initramfs; what the manifest says they are is compared
// chunk by chunk.
func (n *Node) fetch(ctx context.Context, b install.Bundle, at func(lock.Blob) string) error {
	ctx, cancel := context.WithTimeout(ctx, installerLimit)
	defer cancel()
	for _, r := range []lock.Role{lock.RoleKernel, lock.RoleInitramfs} {
		blob, err := b.Manifest.Find(r)
		if err != nil {
			return err
		}
		n.reimageEvent("fetch", fmt.Sprintf("%s, %d MB, of %s %d", blob.Name, blob.Size/1e6, b.Manifest.Name, b.Manifest.Serial))
		if err := blobs.Copy(ctx, b.From, blob, nil, at(blob), nil); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) reimageEvent(step, text string) {
	n.Report.Emit(handoff.Event{Phase: reimagePhase, Step: step, State: handoff.Running, Text: text})
}

// oldDisk is the disk of a machine that is installed anew, as its installer knows it.
type oldDisk struct {
	marked string // path of the disk whose mark says so, "" for none
	noted  string // path of the disk that an earlier try of this machine has begun
	deaf   bool   // the seed did not want who the note says
}

func (o oldDisk) has(path string) bool { return path == o.marked || path == o.noted }

// is refuses another disk than the marked one, which would go on starting.
func (o oldDisk) is(chosen disks.Disk) error {
	if o.marked == "" || o.marked == chosen.Path {
		return nil
	}
	return report.Fail("SW-REIMAGE-OTHER", "name the node's own disk in install.disk; to move the node, wipe the old disk or take it out",
		fmt.Errorf("this node is on %s, and its config says %s", o.marked, chosen))
}

// staysOnItsDisk refuses a config without a disk for a node that has one.
func (n *Node) staysOnItsDisk() error {
	if n.old.marked == "" || n.disk != nil || n.installs() {
		return nil
	}
	return report.Fail("SW-REIMAGE-OTHER", "write install.disk into the config; or wipe the disk",
		fmt.Errorf("this node is on %s, and its config names no disk", n.old.marked))
}

// endOf is what the installer does with this machine's own disk when it is marked.
// kept is the enrolment there.
func (n *Node) endOf(_ context.Context, d *install.Disk, kept enrol.Kept) error {
	if d.Record.Ends == install.Reset {
		n.disk = d
		return n.goOnResetting()
	}
	m, err := d.Mark()
	d.Unmount()
	if err != nil {
		n.log.Warn("a mark", "path", d.Path, "err", err) // the operator approves it
	}
	if n.Cmdline.Reimage == "" {
		n.Cmdline.Reimage = m.Token
	}
	if n.Cmdline.Pin == "" {
		n.Cmdline.Pin = kept.Pin()
	}
	n.old.marked = d.Path
	n.reimageEvent("disk", fmt.Sprintf("%s is this machine's, %s: it is written anew", d.Path, d.Record))
	n.noted()
	return nil
}

// noted goes on as who began to write a disk of this machine, if a power cut left
// only the note of it.
func (n *Node) noted() {
	paths, err := n.paths()
	if err != nil || n.enrol != nil || n.old.deaf {
		return
	}
	for _, p := range paths {
		var k enrol.Kept
		raw := install.Noted(p)
		if raw == nil || json.Unmarshal(raw, &k) != nil || k.Pin() != n.Cmdline.Pin && (n.Cmdline.Pin != "" || k.Seed != n.Cmdline.Seed) {
			continue
		}
		k.Seed = n.Cmdline.Seed
		c, err := enrol.Resume(k, n.seedEvent())
		if err == nil && n.Cmdline.Reimage != "" { // it may not have been let in yet
			err = c.Token(n.Cmdline.Reimage)
		}
		if err != nil {
			n.log.Warn("a note", "path", p, "err", err)
			continue
		}
		n.enrol, n.old.noted = c, p
		n.step("disk", p+": an earlier start of this machine began to write it: going on as that", nil)
		return
	}
}

// forgetNoted: the seed refused who the note says. Next time it is a new machine.
func (n *Node) forgetNoted(ctx context.Context) {
	if n.old.noted != "" && ctx.Err() == nil {
		n.old.noted, n.old.deaf, n.enrol = "", true, nil
	}
}

// noting is the machine for install.Begin, which notes there who writes the disk.
func (n *Node) noting() install.Machine {
	m := n.hardware.machine()
	if n.enrol == nil {
		return m
	}
	kept, err := n.enrol.Keep()
	if err == nil {
		m.Note, err = json.Marshal(kept)
	}
	if err != nil {
		n.log.Warn("a note", "err", err)
	}
	return m
}
