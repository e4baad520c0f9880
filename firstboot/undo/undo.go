// Package undo keeps the beginning of a disk that others' data is on before it is
// written, and gives it back when the operator says that it was the wrong disk.
//
// What is kept is at the seed, not here. It chooses no disk, asks nobody for
// consent, and brings nothing back once file systems are being made.
package undo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/bootdisk"
)

// Seed keeps what was saved. *enrol.Client is one.
type Seed interface {
	Save(ctx context.Context, body []byte) (handoff.Window, error)
	Wiping(ctx context.Context, w handoff.Wiping) (handoff.Window, error)
	Saved(ctx context.Context, id string) ([]byte, error)
}

// Guard stands between a consent and the first write. Use New.
type Guard struct {
	seed Seed
	disk disks.Disk
	node string
	tell func(text string)

	id      string // of what the seed has and may be brought back, "" while nothing is
	ours    []byte // that, when this start saved it
	changed bool   // some of its places may have been written
	over    error  // it was undone: the disk is not to be touched
}

// New guards one disk. tell is told, for people, what is done.
func New(s Seed, d disks.Disk, node string, tell func(string)) *Guard {
	return &Guard{seed: s, disk: d, node: node, tell: tell}
}

// Disk is the path of the disk that is guarded.
func (g *Guard) Disk() string { return g.disk.Path }

// Began says that this start may have written to the disk.
func (g *Guard) Began() bool { return g.changed }

// Over is why the disk is not to be written any more, once it was undone.
func (g *Guard) Over() error {
	if g == nil {
		return nil
	}
	return g.over
}

// Again asks after the wipe that an earlier try began, of this start or of one
// before a power cut, and undoes it if that is wanted. It is asked before
// anything reads the disk as this node's.
func (g *Guard) Again(ctx context.Context) error {
	w, err := g.seed.Wiping(ctx, handoff.Wiping{Stage: handoff.WipeAgain, Disk: Facts(g.disk)})
	if err != nil {
		return err
	}
	if w.ID != g.id {
		g.id, g.ours = w.ID, nil
	}
	g.changed = true
	if w.Undo && w.ID != "" {
		return g.undo(ctx)
	}
	return nil
}

// Save is for install.Machine: it returns once the seed has on its disk what these
// places hold, and the operator had his time to look.
func (g *Guard) Save(ctx context.Context, disk io.ReaderAt, size int64, at []bootdisk.Extent) error {
	if g.id != "" && g.changed { // of an earlier try; the disk is not as it was
		return nil
	}
	if n := total(at); n > handoff.MaxPlaces {
		return report.Fail("SW-UNDO-SIZE", "report this: no disk should need so much", fmt.Errorf("%s: %d bytes would have to be saved, want at most %d", g.disk.Path, n, handoff.MaxPlaces))
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	all, missed := worth(disk, size, int64(g.disk.Sector), at)
	head := handoff.Saved{ID: hex.EncodeToString(id), Node: g.node, Disk: Facts(g.disk), Begun: install.Begun(disk)}
	head.Disk.Size = size
	raw, err := Pack(head, disk, all)
	if err != nil {
		return report.Fail("SW-UNDO-READ", "nothing was written; replace the disk: it does not give what would be overwritten", fmt.Errorf("%s: saving what it holds: %w", g.disk.Path, err))
	}
	w, err := g.seed.Save(ctx, raw)
	if err != nil {
		return err
	}
	g.id, g.ours, g.changed = head.ID, raw, false
	if w.ID != head.ID { // an earlier try saved it while it was whole
		g.id, g.ours, g.changed = w.ID, nil, true
	}
	text := fmt.Sprintf("%s: %d places of %d MB are saved at the seed (%d kB)", g.disk.Path, len(all), total(all)/1e6, len(raw)/1000)
	if g.changed {
		text = g.disk.Path + ": what an earlier try saved of it is still at the seed"
	}
	if missed > 0 {
		text += fmt.Sprintf("; no room for the ends of %d partitions", missed)
	}
	g.tell(text)
	if !w.Undo && w.Wait > 0 {
		if w.Undo, err = g.wait(ctx, time.Duration(w.Wait)*time.Second); err != nil {
			return err
		}
	}
	if !w.Undo {
		if w, err = g.seed.Wiping(ctx, handoff.Wiping{ID: g.id, Stage: handoff.WipeTables}); err != nil {
			return err
		}
	}
	if w.Undo {
		return g.undo(ctx)
	}
	g.changed = true
	return nil
}

// wait gives the operator time to stop it.
func (g *Guard) wait(ctx context.Context, d time.Duration) (undo bool, err error) {
	g.tell(fmt.Sprintf("%s is written in %.0f s. To stop that, at the seed: slipway undo-wipe %s", g.disk.Path, d.Seconds(), g.node))
	limit, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	w, err := g.seed.Wiping(limit, handoff.Wiping{ID: g.id, Stage: handoff.WipeWaits})
	if limit.Err() != nil {
		return false, ctx.Err()
	}
	return w.Undo, err
}

// Large is for install.Machine: it returns nil when the seed knows that there is
// no undoing any more.
func (g *Guard) Large(ctx context.Context) error {
	if g.id == "" {
		return nil
	}
	w, err := g.seed.Wiping(ctx, handoff.Wiping{ID: g.id, Stage: handoff.WipeLarge})
	if err != nil {
		return err
	}
	if w.Undo {
		return g.undo(ctx)
	}
	g.id, g.ours = "", nil
	return nil
}

// undo gives the disk back as it was, tells the seed, and returns an error for as
// long as this start lasts: the node holds.
func (g *Guard) undo(ctx context.Context) error {
	text := "nothing was written: it is as it was found"
	if g.changed {
		g.tell(g.disk.Path + ": the operator undoes the wipe: writing back what was saved")
		raw := g.ours
		if raw == nil {
			var err error
			if raw, err = g.seed.Saved(ctx, g.id); err != nil {
				return err
			}
		}
		head, at, data, err := Unpack(raw)
		if err == nil && head.ID != g.id {
			err = fmt.Errorf("it is %q, want %q", head.ID, g.id)
		}
		if err != nil {
			return report.Fail("SW-UNDO-SAVED", "look at the file at the seed: slipway nodes "+g.node, fmt.Errorf("what was saved of %s: %w", g.disk.Path, err))
		}
		if err := install.Restore(g.disk.Path, head.Disk.Size, at, data); err != nil {
			return err
		}
		text = fmt.Sprintf("%d places of %d MB were written back and read back: every byte is as it was found", len(at), len(data)/1e6)
	}
	if _, err := g.seed.Wiping(ctx, handoff.Wiping{ID: g.id, Stage: handoff.WipeUndone, Text: text}); err != nil {
		return err
	}
	g.over = report.Fail("SW-UNDO-DONE", "power the machine off, or start it from that disk; to install it after all, restart it and approve it again",
		errors.New("the operator undid the wipe of "+g.disk.Path+"; "+text))
	return g.over
}

// Facts are a disk as the seed is told of it.
func Facts(d disks.Disk) handoff.Disk {
	out := handoff.Disk{Name: d.Name, Also: strings.Join(d.Also, ", "), Size: d.Size, Model: d.Model, Serial: d.Serial, WWN: d.WWN, Type: d.Type, Holds: d.HoldsText(12)}
	if d.Serial == "" && d.WWN == "" && len(d.ByPath) > 0 {
		out.Path = d.ByPath[0]
	}
	return out
}
