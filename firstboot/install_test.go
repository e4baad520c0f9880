package firstboot

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/medium"
)

// fromMedium is a start of an installed machine whose install medium, with its
// config, is still in the drive, and comes first.
func (b *bench) fromMedium(t *testing.T, s served, dev string) *bench {
	t.Helper()
	next := b.again(t, s.key)
	next.bundle, next.Manifest, next.Store = s.bundle, s.bundle.Manifest, &blobs.Store{Source: s.bundle.From}
	next.User.Slipway.Install = configs.Install{Disk: configs.DiskRules{{Path: configs.Glob(dev)}}}
	next.User.Slipway.Hooks.BeforeInstall = []configs.Command{{Argv: []string{"a hook that must not run"}}}
	return next
}

// TestMediumThatStays: an installed node goes on as it would from its disk.
func TestMediumThatStays(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	s := serveBundle(t, 7, sign)
	for name, c := range map[string]struct {
		before    func(*bench) error
		unsettled bool
		ended     []Power
	}{
		"nothing happened": {func(*bench) error { return nil }, false, nil},
		"a trial died": {func(b *bench) error {
			b.disk.Record.Trial = &install.Trial{Slot: bootdisk.B, Bundle: "test 8", Step: install.Trying}
			return b.disk.KeepMark(install.Mark{}) // saves the record
		}, true, nil},
		"a trial was given up": {func(b *bench) error {
			b.disk.Record.Trial = &install.Trial{Slot: bootdisk.B, Bundle: "test 8", Step: install.Trying}
			return b.disk.GiveUp(errors.New("it was late"))
		}, true, nil},
		"a reset was cut short": {func(b *bench) error {
			return errors.Join(b.disk.KeepMark(install.Mark{Verb: install.Reset}), b.disk.Deactivate())
		}, false, []Power{Off}},
	} {
		t.Run(name, func(t *testing.T) {
			dev := emptyDisk(t)
			b := newBench(t, s.key, 7, dev)
			b.install(t, dev, s, nil)
			if err := c.before(b); err != nil {
				t.Fatal(err)
			}
			next := b.fromMedium(t, s, dev)
			err := installPhase(t.Context(), next.Node)
			next.stopSystem() // it reads the disk
			if (err != nil) != (c.ended != nil) || !slices.Equal(next.ended, c.ended) {
				t.Errorf("%v, ended %v, want %v; %q", err, next.ended, c.ended, next.rec.lines())
			}
			if next.disk == nil || next.unsettled != c.unsettled {
				t.Errorf("disk %+v, unsettled %t, want %t", next.disk, next.unsettled, c.unsettled)
			}
			if trial := next.disk.Record.Trial; c.unsettled && (trial == nil || trial.Step != install.GivenUp) {
				t.Errorf("the trial is %+v", trial)
			}
			told := slices.ContainsFunc(next.rec.all, func(e handoff.Event) bool { return e.Step == "active" && e.Data["disk"] == next.disk.ID.String() })
			if told != (c.ended == nil) {
				t.Errorf("which disk starts the machine was told: %t", told)
			}
		})
	}
	t.Run("a disk that is hurt is not for hooks", func(t *testing.T) {
		dev := emptyDisk(t)
		b := newBench(t, s.key, 7, dev)
		b.install(t, dev, s, nil)
		next := b.fromMedium(t, s, dev) // its volumes are not mounted any more
		f, err := os.OpenFile(dev, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for at := int64(513) << 20; at < 3<<30; at += 128 << 20 { // all of the store's superblocks
			if _, err := f.WriteAt(make([]byte, 1<<20), at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := installPhase(t.Context(), next.Node); codeOf(err) != "SW-DISK-UNUSABLE" || next.disk != nil {
			t.Errorf("%v, disk %+v", err, next.disk)
		}
	})
	t.Run("without a config it goes on with a reset, too", func(t *testing.T) {
		dev := emptyDisk(t)
		b := newBench(t, s.key, 7, dev)
		b.install(t, dev, s, nil)
		if err := errors.Join(b.disk.KeepMark(install.Mark{Verb: install.Reset}), b.disk.Deactivate()); err != nil {
			t.Fatal(err)
		}
		next := b.again(t, s.key)
		var err error
		if next.disk, err = next.installedDisk(t.Context()); err != nil || next.disk == nil {
			t.Fatalf("its disk was not found: %v", err)
		}
		if err := next.ownConfig(); err == nil || !slices.Equal(next.ended, []Power{Off}) {
			t.Errorf("%v, ended %v", err, next.ended)
		}
	})
}

// TestRoomForAnUpgradeThatWasCutShort: what it brought is not wanted twice.
func TestRoomForAnUpgradeThatWasCutShort(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	s := serveBundle(t, 7, sign)
	dev := emptyDisk(t)
	b := newBench(t, s.key, 7, dev)
	b.install(t, dev, s, nil)
	have, err := free(b.disk.Store)
	if err != nil {
		t.Fatal(err)
	}
	next := serveBundle(t, 8, sign).bundle.Manifest
	i := slices.IndexFunc(next.Blobs, func(x lock.Blob) bool { return x.Name == "system.erofs" })
	next.Blobs[i].SHA256 = next.Blobs[i].SHA256[:60] + "0000"
	next.Blobs[i].Size = have - have/10
	if err := b.roomForSlot(next); err != nil {
		t.Fatalf("nine tenths of the room there is: %v", err)
	}
	part := filepath.Join(b.disk.Slot(bootdisk.B), filepath.FromSlash(medium.Path(next.Blobs[i]))) + ".part"
	writeTo(t, part, nil)
	f, err := os.OpenFile(part, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, have/2); err != nil {
		t.Fatal(err)
	}
	if err := b.roomForSlot(next); err != nil {
		t.Errorf("half of it was brought: %v", err)
	}
	next.Blobs[i].Size = have + have/10
	if err := b.roomForSlot(next); codeOf(err) != "SW-INSTALL-FULL" {
		t.Errorf("more than there is: %v", err)
	}
}

func TestAnOrderIsForOneBundle(t *testing.T) {
	m := &lock.Manifest{Name: "example", Serial: 13}
	for bundle, code := range map[string]string{"": codeOf(nil), "example 13": codeOf(nil), "example 12": "SW-ORDER-BUNDLE"} {
		if err := (wanted{bundle: bundle}).is(m); codeOf(err) != code {
			t.Errorf("an order for %q: %v", bundle, err)
		}
	}
}

// TestRestStaysAtEveryTry: what a foreign disk holds besides what is written is kept
// also when an earlier try has begun it, but not at the node's own reimage.
func TestRestStaysAtEveryTry(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	dev := emptyDisk(t)
	for _, c := range []struct {
		own    bool
		marked string
		want   bool
	}{{false, "", true}, {true, "", true}, {true, dev, false}} {
		b := newBench(t, sign.Public().(ed25519.PublicKey), 7, dev)
		var err error
		if b.enrol, err = enrol.Resume(realKept(t), func(handoff.Event) {}); err != nil {
			t.Fatal(err)
		}
		all, err := b.hardware.disks()
		if err != nil {
			t.Fatal(err)
		}
		b.old.marked = c.marked
		if m, err := b.guarded(t.Context(), all[0], c.own); err != nil || m.Rest != c.want {
			t.Errorf("%+v: the rest stays: %t, %v", c, m.Rest, err)
		}
	}
}
