package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
)

// installed is a disk that starts a bundle from slot a.
func installed(t *testing.T, b Bundle) (*Disk, string) {
	t.Helper()
	m, dev := machine(t), loopDisk(t, enough)
	d := begin(t, m, dev, Owner{"node-1", "i-1"}, b)
	if err := d.Fill(t.Context(), bootdisk.A, b, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	if err := d.Startable(bootdisk.A, b.Manifest, boot.Cmdline{}); err != nil {
		t.Fatal(err)
	}
	if err := d.Finish(bootdisk.A, b.Manifest); err != nil {
		t.Fatal(err)
	}
	return d, dev
}

func offer(t *testing.T, d *Disk, b Bundle) {
	t.Helper()
	if err := d.Offer(t.Context(), Trial{Slot: d.Runs.Other(), Order: "o-1", Limit: time.Minute}, b, boot.Cmdline{}, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
}

// again reads the record as the next start of the machine does.
func again(t *testing.T, d *Disk) Record {
	t.Helper()
	r, err := readRecord(d.Store)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTrial holds that what the machine starts by itself changes when a trial is
// confirmed, and at nothing that comes before.
func TestTrial(t *testing.T) {
	d, dev := installed(t, bundle(t, "one system"))
	starts := func(want bootdisk.Slot) {
		t.Helper()
		if got := read(t, dev).Default; got != want {
			t.Errorf("the disk starts slot %s, want %s", got, want)
		}
		if got := again(t, d).Slot; got != want {
			t.Errorf("the record says slot %s, want %s", got, want)
		}
	}
	two := bundle(t, "another system")
	two.Manifest.Serial = 8
	offer(t, d, two)
	starts(bootdisk.A)
	if r := again(t, d); r.Trial == nil || r.Trial.Step != Filling || r.Trial.Bundle != "test 8" || r.Trial.Order != "o-1" {
		t.Fatalf("after the offer: %+v", r.Trial)
	}

	d.Record.Trial.Step = Trying
	if err := d.point(bootdisk.B); err != nil { // as far as Confirm got before the power went
		t.Fatal(err)
	}
	if !d.Record.Trying(bootdisk.B) || d.Record.Trying(bootdisk.A) {
		t.Error("slot b, and no other, is on trial")
	}
	if err := d.GiveUp(report.Fail("SW-X", "do y", errors.New("because of z"))); err != nil {
		t.Fatal(err)
	}
	if err := d.GiveUp(errors.New("a later reason")); err != nil {
		t.Fatal(err)
	}
	starts(bootdisk.A)
	if x := again(t, d).Trial; x.Step != GivenUp || x.Code != "SW-X" || x.Hint != "do y" || x.Text != "because of z" || x.Restored {
		t.Errorf("given up: %+v", x)
	}
	if err := d.Restored(); err != nil || !again(t, d).Trial.Restored {
		t.Errorf("not restored: %v", err)
	}

	offer(t, d, two)
	d.Record.Trial.Step = Trying
	if err := d.Confirm(two.Manifest); err != nil {
		t.Fatal(err)
	}
	starts(bootdisk.B)
	if r := again(t, d); r.Trial != nil || r.Bundle != "test 8" {
		t.Errorf("confirmed: %+v", r)
	}
}

// TestOfferOverAnother holds that a slot has nothing of what it was before, and
// that the slot that runs loses nothing.
func TestOfferOverAnother(t *testing.T) {
	one := bundle(t, "one system")
	d, _ := installed(t, one)
	two, three := bundle(t, "two systems"), bundle(t, "three systems")
	two.Manifest.Serial, three.Manifest.Serial = 8, 9
	offer(t, d, two)
	gone, err := two.Manifest.Find(lock.RoleSystem)
	if err != nil {
		t.Fatal(err)
	}
	offer(t, d, three)
	if _, err := os.Stat(d.Blob(bootdisk.B, gone)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the system of the bundle before is in the slot: %v", err)
	}
	for s, b := range map[bootdisk.Slot]Bundle{bootdisk.A: one, bootdisk.B: three} {
		for _, x := range b.Manifest.Blobs {
			if !holds(d.Blob(s, x), x) {
				t.Errorf("slot %s: %s is not what its manifest says", s, x.Name)
			}
		}
	}
	if err := d.Offer(t.Context(), Trial{Slot: bootdisk.A}, three, boot.Cmdline{}, nil); err == nil {
		t.Error("the slot that the node runs was written over")
	}
	for _, name := range []string{layout.Manifest, layout.Signature} {
		if _, err := os.Stat(filepath.Join(d.Slot(bootdisk.B), name)); err != nil {
			t.Error(err)
		}
	}
}

// asked counts the bytes of the system that are asked of a source.
type asked struct {
	blobs.Source
	bytes atomic.Int64
}

type askedFile struct {
	blobs.File
	of *asked
}

func (a *asked) Open(ctx context.Context, b lock.Blob) (blobs.File, error) {
	f, err := a.Source.Open(ctx, b)
	if b.Role != lock.RoleSystem {
		return f, err
	}
	return askedFile{f, a}, err
}

func (f askedFile) ReadAt(p []byte, at int64) (int, error) {
	f.of.bytes.Add(int64(len(p)))
	return f.File.ReadAt(p, at)
}

// TestOfferBringsChangedBlocks holds that of a system that differs in few blocks
// from the one that the node runs only those are brought.
func TestOfferBringsChangedBlocks(t *testing.T) {
	var system strings.Builder
	for i := range 6 << 20 / 16 {
		fmt.Fprintf(&system, "%15d\n", i)
	}
	old := system.String()
	d, _ := installed(t, bundle(t, old))
	two := bundle(t, strings.Repeat("a new file's text\n", 4096/18+1)[:4096]+old)
	two.Manifest.Serial = 8
	from := &asked{Source: two.From}
	two.From = from
	offer(t, d, two)
	sys, err := two.Manifest.Find(lock.RoleSystem)
	if err != nil {
		t.Fatal(err)
	}
	if !holds(d.Blob(bootdisk.B, sys), sys) || from.bytes.Load() != 4096 {
		t.Errorf("%d bytes of the system were brought, want 4096", from.bytes.Load())
	}
}
