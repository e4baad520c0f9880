package firstboot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
)

// resetPhase is the phase that events of a reset belong to.
const resetPhase = "reset"

// Flags of `slipway reset`.
const (
	flagYes  = "--yes"
	flagLose = "--yes-lose-the-cluster"
)

// wipeLimit is for telling a disk to forget 20 TB.
const wipeLimit = 10 * time.Minute

// resetThen marks the disk, ends everything that runs, wipes the disk, tells how
// that went (ended may be nil; the network is still there), and powers off. It
// returns only when the node goes on as it was.
func (n *Node) resetThen(_ context.Context, ended func(error)) error {
	if n.disk == nil {
		return report.Fail("SW-RESET-DISK", "power it off: nothing of it stays but what it wrote to disks for data", errors.New("this node has no disk of its own"))
	}
	if err := n.disk.KeepMark(install.Mark{Verb: install.Reset}); err != nil {
		return err
	}
	n.wipeAndEnd(ended)
	return errors.New("the machine did not power off")
}

// goOnResetting is a start from a disk whose reset was cut short.
func (n *Node) goOnResetting() error {
	n.resetEvent(handoff.Running, "mark", "this machine's reset was cut short: going on with it")
	n.wipeAndEnd(nil)
	return errors.New("the machine did not power off")
}

// wipeAndEnd ends the machine; its disk is wiped when nothing else runs.
func (n *Node) wipeAndEnd(ended func(error)) {
	n.last = func() bool {
		err := n.wipe()
		if ended != nil {
			ended(err)
		}
		if err != nil {
			n.Report.Error(resetPhase, "", report.Fail("SW-RESET-WRITE", "start the machine again to go on; a disk that does not take writes has to be destroyed", err), nil)
			n.Report.Emit(handoff.Event{Phase: resetPhase, Step: "hold", State: handoff.Running, Text: "the machine holds here"})
			return false
		}
		n.resetEvent(handoff.Done, "", fmt.Sprintf("%s is empty; other disks are as they were", n.disk.Path))
		return true
	}
	n.end(Off)
}

// wipe empties the node's own disk. Nothing runs any more but this program,
// which is in memory.
func (n *Node) wipe() error {
	ctx, cancel := context.WithTimeout(n.life, wipeLimit)
	defer cancel()
	d := n.disk
	if err := d.Deactivate(); err != nil {
		return err
	}
	n.resetEvent(handoff.Running, "disk", d.Path+" does not start any more")
	n.hardware.unmount()
	unix.Sync()
	if err := d.Shred(ctx); err != nil { // what Wipe does is worth more
		n.Report.Error(resetPhase, "files", report.Fail("SW-RESET-FILES", "if others get the disk: overwrite all of it", err), nil)
	}
	discarded, err := d.Wipe(ctx)
	if err != nil {
		return err
	}
	text := "keys, config and enrolment were overwritten, and all that says where files are"
	if discarded > 0 {
		text += fmt.Sprintf("; the disk was told to forget %d GB", discarded/1e9)
	} else {
		text += "; other content is still on it for those who look for it"
	}
	n.resetEvent(handoff.Running, "disk", d.Path+": "+text)
	return nil
}

func (n *Node) resetEvent(s handoff.State, step, text string) {
	n.Report.Emit(handoff.Event{Phase: resetPhase, Step: step, State: s, Text: text})
}

// resetAsked is `slipway reset` on the machine.
func (n *Node) resetAsked(_ context.Context, args []string, tell func(handoff.Event)) error {
	if i := slices.IndexFunc(args, func(a string) bool { return a != flagYes && a != flagLose }); i >= 0 {
		return report.Fail("SW-RESET-USAGE", "slipway reset "+flagYes, fmt.Errorf("%q: unknown", args[i]))
	}
	if n.disk == nil {
		return n.resetThen(n.life, nil)
	}
	line := []string{"slipway reset", flagYes}
	alone := n.User.Slipway.Role != configs.RoleWorker // there is one control plane, see kubernetesPhase
	if alone {
		line = append(line, flagLose)
	}
	if !slices.Contains(args, flagYes) || alone && !slices.Contains(args, flagLose) {
		for _, l := range n.losses(alone) {
			tell(handoff.Event{Phase: resetPhase, State: handoff.Running, Text: l})
		}
		return report.Fail("SW-RESET-CONSENT", strings.Join(line, " "), errors.New("nothing was changed: nobody said yes to all of that"))
	}
	if err := n.disk.KeepMark(install.Mark{Verb: install.Reset}); err != nil {
		return err
	}
	tell(handoff.Event{Phase: resetPhase, State: handoff.Running, Text: "the node ends now, and the machine powers off when the disk is empty; a power cut is followed by going on"})
	n.own(resetPhase, "", func(context.Context) { n.wipeAndEnd(nil) })
	return nil
}

// losses are what a reset takes away, a line each.
func (n *Node) losses(alone bool) []string {
	out := []string{
		fmt.Sprintf("node %s ends on this machine: its pods stop, and the machine powers off", n.Hostname),
		fmt.Sprintf("%s is emptied: the system, the node's keys and config, and what pods keep on this disk (%s)", n.disk.Path, n.disk.Record),
		"other disks stay as they are",
	}
	if alone {
		out = append(out, "this is the cluster's only control plane: the cluster ends with it, and so does etcd's data")
	} else {
		out = append(out, "at the seed the node stays in the list until: slipway remove "+n.Hostname)
	}
	if n.cluster != nil {
		out = append(out, "this machine is the seed: its CA and all that it knows of other machines ends too")
	}
	return out
}
