package firstboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
)

// before is where a trial keeps what it changes outside its slot.
func (n *Node) before() string { return filepath.Join(n.disk.State, "slipway", "before") }

// onTrial says that this start is one.
func (n *Node) onTrial() bool { return n.Cmdline.Trial != "" }

// watchTrial gives the trial up when it has taken too long, whatever phase it is in.
func (n *Node) watchTrial() error {
	if !n.onTrial() {
		return nil
	}
	limit, err := time.ParseDuration(n.Cmdline.Trial)
	if err != nil {
		return report.Fail("SW-CMDLINE", "correct the boot entry", fmt.Errorf("slipway.trial=%q: want a duration as in 20m", n.Cmdline.Trial))
	}
	n.confirmed = make(chan struct{})
	n.own(upgradePhase, "", func(ctx context.Context) {
		select {
		case <-n.confirmed:
		case <-ctx.Done():
		case <-time.After(limit):
			n.giveUp(report.Fail("SW-UPGRADE-LATE", "look at what the trial was waiting for: slipway events; allow more with --limit", fmt.Errorf("the node was not Ready within %s: %s", limit, n.waitingFor())))
		}
	})
	return nil
}

// waitingFor is the phase that has not ended, and its last error.
func (n *Node) waitingFor() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lastErr == nil {
		return "phase " + n.phase
	}
	return fmt.Sprintf("phase %s: %v", n.phase, n.lastErr)
}

// giveUp ends a trial: the machine starts again, from the slot that ran before.
func (n *Node) giveUp(cause error) {
	if n.gaveUp.Swap(true) {
		return
	}
	n.Report.Error(upgradePhase, "trial", cause, nil)
	if n.disk != nil {
		if err := n.disk.GiveUp(cause); err != nil { // the loaders still have the other slot
			n.Report.Error(upgradePhase, "record", err, nil)
		}
	}
	n.end(Reboot)
}

// judgeTrial looks at what the disk says of a trial, once the node knows its disk.
func (n *Node) judgeTrial() error {
	d := n.disk
	if d == nil {
		return nil
	}
	t := d.Record.Trial
	switch {
	case d.Runs != d.Record.Slot && (t == nil || t.Slot != d.Runs):
		n.upgradeEvent("fallback", handoff.Failed, fmt.Sprintf("slot %s, %s, could not be loaded: this is slot %s, from before the last upgrade. Reimage the node, or replace its disk", d.Record.Slot, d.Record.Bundle, d.Runs), nil)
	case t == nil:
	case t.Step == install.Filling:
		n.upgradeEvent("", handoff.Failed, fmt.Sprintf("bringing %s was interrupted; ask for the upgrade again, it goes on where it was", t.Bundle), nil)
	case t.Step == install.Trying && d.Runs == t.Slot && !n.onTrial():
		// The loaders have it, so it was confirmed; the power went before that was written down.
		return n.confirm()
	case t.Step == install.Trying && d.Runs != t.Slot:
		return d.GiveUp(report.Fail("SW-UPGRADE-DIED", "start the machine with a screen and upgrade again to see it; is the bundle for this hardware?",
			fmt.Errorf("%s was started and said nothing more: a panic, a hang or a power cut", t.Bundle)))
	}
	return nil
}

// unsettledTrial says that a trial changes, or changed, what is outside its slot.
func (n *Node) unsettledTrial() bool {
	return n.onTrial() || n.disk != nil && n.disk.Record.Trial.Unrestored()
}

// confirmTrial makes the slot on trial the node's, once all phases are done.
func (n *Node) confirmTrial() {
	if !n.onTrial() {
		return
	}
	if n.gaveUp.Swap(true) { // too late by a moment: the machine is going back
		return
	}
	if err := n.confirm(); err != nil {
		n.gaveUp.Store(false)
		n.giveUp(err)
		return
	}
	close(n.confirmed)
}

func (n *Node) confirm() error {
	t := *n.disk.Record.Trial
	if err := n.disk.Confirm(n.Manifest); err != nil {
		return err
	}
	_ = os.RemoveAll(n.before())
	n.upgradeEvent("", handoff.Done, fmt.Sprintf("%s, Kubernetes %s, is confirmed: the machine starts slot %s from now on", t.Bundle, n.Manifest.Kubernetes, t.Slot),
		map[string]any{"bundle": t.Bundle, "kubernetes": n.Manifest.Kubernetes, "slot": string(t.Slot)})
	n.outcome(handoff.Outcome{ID: t.Order, State: handoff.Done, Text: t.Bundle})
	return nil
}

// goneBack says why an upgrade was undone, when this start is the first after it.
func (n *Node) goneBack() {
	t := n.disk.Record.Trial
	n.Report.Emit(handoff.Event{Phase: upgradePhase, State: handoff.Failed, Code: t.Code, Hint: t.Hint,
		Text: fmt.Sprintf("rolled back from %s to %s %d: %s", t.Bundle, n.Manifest.Name, n.Manifest.Serial, t.Text), Data: map[string]any{"bundle": fmt.Sprintf("%s %d", n.Manifest.Name, n.Manifest.Serial)}})
	n.outcome(handoff.Outcome{ID: t.Order, State: handoff.Failed, Code: t.Code, Text: t.Text, Hint: t.Hint})
}

// settleTrial runs before kubelet: a trial keeps what it is about to change, and
// a node that has gone back gets it again.
func (n *Node) settleTrial(ctx context.Context) error {
	if !n.unsettled { // asked without waiting for an upgrade that has begun meanwhile
		return nil
	}
	n.upgrading.Lock()
	defer n.upgrading.Unlock()
	r := n.runner()
	switch {
	case n.onTrial():
		if err := r.Keep(ctx, n.before(), n.Manifest.Kubernetes); err != nil {
			return report.Fail("SW-UPGRADE-KEEP", "make room on the state volume", err)
		}
		n.upgradeEvent("keep", handoff.Done, "etcd's data and Kubernetes' files are kept as they were", nil)
	case n.disk.Record.Trial.Unrestored():
		if err := r.GoBack(ctx, n.before()); err != nil {
			return report.Fail("SW-UPGRADE-RESTORE", "the node tries again at its next start; what is to be restored is in "+n.before(), err)
		}
		if err := n.disk.Restored(); err != nil {
			return err
		}
		_ = os.RemoveAll(n.before())
		n.goneBack()
	}
	return nil
}

// damaged says that content is not what its manifest says: another try reads the same.
func damaged(err error) bool {
	f, ok := errors.AsType[*report.Failure](err)
	return ok && slices.Contains([]string{"SW-DISK-DIGEST", "SW-STORE-DIGEST", "SW-STORE-MISSING"}, f.Code)
}
