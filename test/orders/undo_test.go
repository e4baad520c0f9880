package orders

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/undo"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/pxe/seed"
)

// foreign is a disk of 12 GiB that holds others' data where an installer writes
// first, and what of it is compared.
type foreign struct {
	disks.Disk
	was []byte
}

func newForeign(t *testing.T) *foreign {
	t.Helper()
	d := &foreign{Disk: disks.Disk{Name: "sda", Path: filepath.Join(t.TempDir(), "sda"), Size: 12 << 30, Sector: 512, Serial: "S1", Holds: []disks.Holding{{Where: "whole disk", What: "unknown data"}}}}
	f, err := os.Create(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	for _, at := range []int64{0, 512 << 20, 640 << 20, d.Size - 3<<20} {
		if _, err := f.WriteAt(noise, at); err != nil {
			t.Fatal(err)
		}
	}
	d.was = d.read(t)
	return d
}

func (d *foreign) read(t *testing.T) (out []byte) {
	t.Helper()
	f, err := os.Open(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, 508 << 20, 640 << 20, d.Size - 16<<20} {
		b := make([]byte, 16<<20)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

// begin installs up to mke2fs, as firstboot does.
func (d *foreign) begin(t *testing.T, c *enrol.Client, s undo.Seed) error {
	t.Helper()
	if _, err := os.Stat("/" + layout.Mke2fs); err != nil {
		t.Skipf("no e2fsprogs: %v", err)
	}
	kept, err := c.Keep()
	if err != nil {
		t.Fatal(err)
	}
	note, _ := json.Marshal(kept)
	g := undo.New(s, d.Disk, "w1", func(s string) { t.Log(s) })
	if install.Noted(d.Path) != nil {
		if err := g.Again(t.Context()); err != nil {
			return err
		}
	}
	loaders := map[string][]byte{}
	for _, n := range []string{"shimx64.efi", "grubx64.efi", "mmx64.efi", "isohdpfx.bin", "isolinux.bin", "ldlinux.c32"} {
		loaders[n] = bytes.Repeat([]byte(n), 100)
	}
	_, err = install.Begin(t.Context(), install.Machine{Sys: "/sys", Dev: "/dev", Mounts: t.TempDir(), Arch: arch.AMD64, Load: func(string) error { return nil }, Tell: func(string) {},
		Partition: func(context.Context, string, bootdisk.Partition) (string, error) { return "/dev/null", nil },
		Run:       func(context.Context, []string) error { return errMke2fs },
		Note:      note, Save: g.Save, Large: g.Large}, d.Path, install.Owner{Node: "w1", Instance: "i"}, 1<<20, loaders)
	return err
}

var (
	errMke2fs = errors.New("mke2fs was started")
	errPower  = errors.New("the power went")
)

// before does something first when a node is about to say that it is at a stage.
type before struct {
	*enrol.Client
	stage handoff.WipeStage
	do    func() error
}

func (b before) Wiping(ctx context.Context, q handoff.Wiping) (handoff.Window, error) {
	if q.Stage == b.stage {
		if err := b.do(); err != nil {
			return handoff.Window{}, err
		}
	}
	return b.Client.Wiping(ctx, q)
}

// wiper is a machine whose disk S1 the operator let go.
func (s *site) wiper() (*enrol.Client, handoff.Facts) {
	s.t.Helper()
	const mac = "52:54:00:00:00:09"
	f := handoff.Facts{Arch: arch.AMD64, Boot: mac, MACs: []string{mac}, Memory: 4 << 30, CPUs: 2, Bundle: "site 3",
		Disks: []handoff.Disk{{Name: "sda", Size: 12 << 30, Serial: "S1", Holds: []string{"unknown data"}}}}
	c, err := enrol.New(s.url, s.seed.Pin(), func(handoff.Event) {})
	if err != nil {
		s.t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { _, err := c.Enrol(s.t.Context(), f); got <- err }()
	s.until(func() bool { _, err := s.op.Approve(s.t.Context(), mac, "", "S1"); return err == nil })
	if err := <-got; err != nil {
		s.t.Fatal(err)
	}
	return c, f
}

func codeOf(err error) string {
	if f, ok := errors.AsType[*report.Failure](err); ok {
		return f.Code
	}
	return ""
}

func (s *site) undoes() error {
	_, err := s.op.UndoWipe(s.t.Context(), "52:54:00:00:00:09")
	return err
}

// TestUndoWipeOverAllOfIt: from the operator's line to the bytes of the disk.
func TestUndoWipeOverAllOfIt(t *testing.T) {
	for _, at := range []handoff.WipeStage{handoff.WipeWaits, handoff.WipeTables, handoff.WipeLarge} {
		t.Run("asked when the node is at "+string(at), func(t *testing.T) {
			s := newSiteWith(t, "  install: {disk: {type: ssd}}\n", seed.Options{Grace: time.Second})
			d := newForeign(t)
			c, _ := s.wiper()
			if err := d.begin(t, c, before{c, at, s.undoes}); codeOf(err) != "SW-UNDO-DONE" {
				t.Fatalf("got %v", err)
			}
			if !bytes.Equal(d.read(t), d.was) {
				t.Error("the disk is another")
			}
			m, err := s.op.Machine(t.Context(), "52:54:00:00:00:09")
			if err != nil || m.State != seed.Rejected || m.Wipe.Ended.IsZero() {
				t.Errorf("%v, %s, %+v", err, m.State, m.Wipe)
			}
		})
	}
}

func TestUndoWipeAfterAPowerCut(t *testing.T) {
	s := newSiteWith(t, "  install: {disk: {type: ssd}}\n", seed.Options{Grace: time.Second})
	d := newForeign(t)
	c, facts := s.wiper()
	if err := d.begin(t, c, before{c, handoff.WipeLarge, func() error { return errPower }}); !errors.Is(err, errPower) || bytes.Equal(d.read(t), d.was) {
		t.Fatalf("got %v", err)
	}
	if err := s.undoes(); err != nil {
		t.Fatal(err)
	}
	var kept enrol.Kept
	if err := json.Unmarshal(install.Noted(d.Path), &kept); err != nil {
		t.Fatal(err)
	}
	again, err := enrol.Resume(kept, func(handoff.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Enrol(t.Context(), facts); err != nil {
		t.Fatal(err)
	}
	if err := d.begin(t, again, again); codeOf(err) != "SW-UNDO-DONE" {
		t.Fatalf("got %v", err)
	}
	if !bytes.Equal(d.read(t), d.was) {
		t.Error("the disk is another")
	}
}

func TestUndoWipeTooLate(t *testing.T) {
	s := newSiteWith(t, "  install: {disk: {type: ssd}}\n", seed.Options{Grace: time.Second})
	c, _ := s.wiper()
	if err := newForeign(t).begin(t, c, c); !errors.Is(err, errMke2fs) {
		t.Fatalf("got %v", err)
	}
	var r *handoff.Refusal
	if err := s.undoes(); !errors.As(err, &r) || r.Code != "SW-UNDO-LATE" {
		t.Fatalf("got %v", err)
	}
	t.Log(r.Text, "/", r.Hint)
}
