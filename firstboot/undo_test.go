package firstboot

import (
	"context"
	"crypto/ed25519"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/undo"
)

// stops is a seed that stops a wipe before anything is written.
type stops struct{ agrees }

func (stops) Save(_ context.Context, body []byte) (handoff.Window, error) {
	head, _, _, err := undo.Unpack(body)
	return handoff.Window{ID: head.ID, Undo: true}, err
}

func (stops) Wiping(context.Context, handoff.Wiping) (handoff.Window, error) {
	return handoff.Window{ID: "saved", Undo: true}, nil
}

func guardedBench(t *testing.T, dev string) *bench {
	t.Helper()
	_, sign, _ := ed25519.GenerateKey(nil)
	s := serveBundle(t, 7, sign)
	b := newBench(t, s.key, 7, dev)
	b.bundle, b.Manifest, b.Store = s.bundle, s.bundle.Manifest, &blobs.Store{Source: s.bundle.From}
	b.User.Slipway.Install = configs.Install{Disk: configs.DiskRules{{Path: configs.Glob(dev)}}, Wipe: configs.DiskNames{"S-" + filepath.Base(dev)}}
	return b
}

// TestUndoneNodeHolds: however often the phase is tried again.
func TestUndoneNodeHolds(t *testing.T) {
	dev := emptyDisk(t)
	b := guardedBench(t, dev)
	var err error
	if b.enrol, err = enrol.Resume(realKept(t), func(handoff.Event) {}); err != nil {
		t.Fatal(err)
	}
	b.hardware.keeper = func() undo.Seed { return stops{} }
	for range 2 {
		if _, err := b.beginInstall(t.Context()); codeOf(err) != "SW-UNDO-DONE" {
			t.Fatalf("got %v", err)
		}
	}
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 4<<20)
	if _, err := f.ReadAt(head, 0); err != nil || len(strings.Trim(string(head), "\x00")) > 0 || install.Noted(dev) != nil {
		t.Errorf("the disk was written; %v", err)
	}
}

// TestNoSeedNoUndo: it says so and goes on.
func TestNoSeedNoUndo(t *testing.T) {
	b := guardedBench(t, emptyDisk(t))
	var err error
	if b.disk, err = b.beginInstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	said := ""
	for _, e := range b.rec.all {
		said += e.Text + "\n"
	}
	if !strings.Contains(said, "no seed keeps what it holds: there is no undoing its wipe") {
		t.Errorf("said %s", said)
	}
}

// TestSeedlessInstallerAfterAPowerCut: it came while the table was written, and
// leaves one that nobody can read. The disk is still known to be this node's.
func TestSeedlessInstallerAfterAPowerCut(t *testing.T) {
	dev := emptyDisk(t)
	b := guardedBench(t, dev)
	d, err := b.beginInstall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.Unmount()
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{512, size - 512} { // both headers' second halves
		if _, err := f.WriteAt(make([]byte, 256), at+56); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ instance, code string }{{"i-other", "SW-DISK-DATA"}, {b.instance().ID, codeOf(nil)}} {
		next := b.again(t, nil)
		next.bundle, next.Manifest, next.Store = b.bundle, b.Manifest, b.Store
		next.User.Slipway.Install = configs.Install{Disk: b.User.Slipway.Install.Disk}
		next.Meta.InstanceID = c.instance
		d, err := next.beginInstall(t.Context())
		if codeOf(err) != c.code {
			t.Fatalf("as %s, without consent: %v", c.instance, err)
		}
		if err == nil {
			d.Unmount()
		}
	}
}
