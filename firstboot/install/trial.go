package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
)

// Step is how far a trial is.
type Step string

// The steps. What the machine starts by itself changes at the last alone, and
// then there is no trial any more.
const (
	Filling Step = "filling" // the slot is not complete
	Trying  Step = "trying"  // the slot was started once, past firmware and loaders (kexec)
	GivenUp Step = "failed"  // the node goes back, or has gone back, to what it ran before
)

// Trial is another bundle in the slot that the node does not run, until it is
// confirmed. Firmware and loaders know nothing of it: whatever ends a trial early,
// a panic, a reset, a power cut, starts the slot that ran before.
type Trial struct {
	Slot   bootdisk.Slot `json:"slot"`
	Bundle string        `json:"bundle"` // name and serial, for people
	Order  string        `json:"order,omitempty"`
	Step   Step          `json:"step"`
	// Limit is how long the node may take to be Ready.
	Limit time.Duration `json:"limit"`
	// Why it was given up.
	Code string `json:"code,omitempty"`
	Text string `json:"text,omitempty"`
	Hint string `json:"hint,omitempty"`
	// Restored says that what the trial changed outside its slot is undone.
	Restored bool `json:"restored,omitempty"`
}

// Unrestored says that what the trial changed outside its slot is still to be restored.
func (t *Trial) Unrestored() bool { return t != nil && t.Step == GivenUp && !t.Restored }

// Offer brings a bundle into the slot that the node does not run. What the
// default is does not change. It may be called again after any interruption:
// blobs that arrived are not brought again.
func (d *Disk) Offer(ctx context.Context, t Trial, b Bundle, c boot.Cmdline, progress func(done, total int64)) error {
	if t.Slot == d.Record.Slot {
		return fmt.Errorf("slot %s is what the node runs", t.Slot)
	}
	if d.Record.Trial.Unrestored() { // a second trial would keep what the first one left
		return report.Fail("SW-UPGRADE-BUSY", "ask again when the node is Ready", fmt.Errorf("the node is going back from %s: its data of before is not restored yet", d.Record.Trial.Bundle))
	}
	t.Bundle, t.Step = title(b.Manifest), Filling
	if old := d.Record.Trial; old == nil || old.Bundle != t.Bundle || old.Step != Filling {
		if err := d.empty(t.Slot, b.Manifest); err != nil {
			return failed(d.Path, err)
		}
	}
	d.Record.Trial = &t
	if err := d.save(); err != nil {
		return failed(d.Path, err)
	}
	if err := d.Fill(ctx, t.Slot, b, progress); err != nil {
		return err
	}
	return d.Startable(t.Slot, b.Manifest, c)
}

// empty takes a slot away from the loaders, and from its tree what the next
// bundle does not have.
func (d *Disk) empty(s bootdisk.Slot, m *lock.Manifest) error {
	dev, err := open(d.Path)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := dev.write(d.plan.Clear(s)); err != nil {
		return err
	}
	root := d.Slot(s)
	for _, name := range []string{layout.Manifest, layout.Signature} {
		if err := os.Remove(filepath.Join(root, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	keep := map[string]bool{}
	for _, b := range m.Blobs {
		keep[filepath.FromSlash(medium.Path(plain(b)))] = true
	}
	err = filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if rel, err := filepath.Rel(root, name); err != nil || keep[rel] {
			return err
		}
		return os.Remove(name)
	})
	if errors.Is(err, fs.ErrNotExist) { // the first upgrade
		return nil
	}
	return err
}

// Try loads the offered slot's kernel for the machine's next restart, and says
// on the disk that the slot is being tried.
func (d *Disk) Try(m *lock.Manifest, c boot.Cmdline) error {
	t := d.Record.Trial
	if t == nil || t.Step != Filling {
		return errors.New("no slot was offered")
	}
	if err := d.Prepare(t.Slot, m, c); err != nil {
		return report.Fail("SW-UPGRADE-KEXEC", "nothing was changed; look at the kernel's messages: Secure Boot wants the next kernel signed by a known key", err)
	}
	t.Step = Trying
	if err := d.save(); err != nil {
		return failed(d.Path, err)
	}
	return failed(d.Path, syncFS(d.State))
}

// Trying says that the slot is the one that is being tried.
func (r Record) Trying(s bootdisk.Slot) bool {
	return r.Trial != nil && r.Trial.Step == Trying && r.Trial.Slot == s
}

// GiveUp makes the slot that ran before the one to go on with. Only the first
// reason is kept.
func (d *Disk) GiveUp(cause error) error {
	t := d.Record.Trial
	if t == nil {
		return nil
	}
	// A power cut may have come between the two writes of Confirm.
	if err := d.point(d.Record.Slot); err != nil {
		return failed(d.Path, err)
	}
	if t.Step != GivenUp {
		t.Step, t.Text = GivenUp, cause.Error()
		if f, ok := errors.AsType[*report.Failure](cause); ok {
			t.Code, t.Hint = f.Code, f.Hint
		}
	}
	return failed(d.Path, d.save())
}

// Restored records that what a trial changed outside its slot was undone.
func (d *Disk) Restored() error {
	d.Record.Trial.Restored = true
	return failed(d.Path, d.save())
}

// Confirm makes the tried slot the one that the machine starts, for good.
func (d *Disk) Confirm(m *lock.Manifest) error {
	t := d.Record.Trial
	if err := syncFS(d.State); err != nil {
		return failed(d.Path, err)
	}
	if err := d.point(t.Slot); err != nil {
		return failed(d.Path, err)
	}
	d.Record.Slot, d.Record.Bundle, d.Record.Trial = t.Slot, title(m), nil
	return failed(d.Path, d.save())
}

// point sets the loaders' default.
func (d *Disk) point(s bootdisk.Slot) error {
	dev, err := open(d.Path)
	if err != nil {
		return err
	}
	defer dev.Close()
	return dev.write(d.plan.Default(s))
}

func title(m *lock.Manifest) string { return fmt.Sprintf("%s %d", m.Name, m.Serial) }
