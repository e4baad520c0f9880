package firstboot

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/root"
	"slipway.dev/slipway/firstboot/volume"
)

// stateDir is where the volume of slipway.state is mounted.
const stateDir = runDir + "/state"

// stateLimit is how long one look for the state volume takes before it is
// reported as missing; the node goes on looking.
const stateLimit = time.Minute

// writable finds where changes to the root go: the volume that user-data
// names, or memory. A named volume that is not there is waited for: going on
// without would make a second cluster.
func (n *Node) writable(ctx context.Context) (root.Writable, error) {
	w := root.Writable{Scratch: runDir + "/etc"}
	if n.disk != nil {
		w.State = n.disk.State
		return w, nil
	}
	label := n.User.Slipway.State
	if label == "" {
		return w, nil
	}
	began, told := time.Now(), time.Now()
	for {
		_, changed := n.drivers.block()
		devs, _ := volume.List("/sys", "/dev")
		found := whole(find(devs, "ext4", label))
		if len(found) > 1 {
			return w, report.Fail("SW-STATE-AMBIGUOUS", "unplug all but one, or give the others another label (e2label)",
				fmt.Errorf("%d volumes are labelled %q: %s, %s", len(found), label, found[0].Path, found[1].Path))
		}
		if len(found) == 1 {
			return n.mountState(w, found[0])
		}
		select {
		case <-ctx.Done():
			return w, ctx.Err()
		case <-changed:
		case <-time.After(500 * time.Millisecond):
		}
		if time.Since(told) > stateLimit {
			told = time.Now()
			n.Report.Error("system", "state", report.Fail("SW-STATE-MISSING",
				"connect the disk, or make one with mkfs.ext4 -L "+label+"; the node goes on looking",
				fmt.Errorf("no ext4 volume %q for %.0f s; devices: %s", label, time.Since(began).Seconds(), names(devs))), nil)
		}
	}
}

// mountState mounts the volume; the kernel replays its journal.
func (n *Node) mountState(w root.Writable, d volume.Device) (root.Writable, error) {
	if err := n.drivers.get().Load("ext4"); err != nil {
		return w, report.Fail("SW-MODULES-MISSING", "build the image again: its kernel lacks a module that a node needs", err)
	}
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return w, err
	}
	if err := unix.Mount(d.Path, stateDir, "ext4", unix.MS_NOATIME, ""); err != nil {
		return w, report.Fail("SW-STATE-MOUNT", "look at the disk with e2fsck; nothing on it was changed", fmt.Errorf("mounting %s: %w", d.Path, err))
	}
	w.State = stateDir
	_, err := os.Stat(stateDir + "/var")
	text := "state is kept on " + d.Path
	if err != nil {
		text += ", which is new"
	}
	n.Report.Emit(handoff.Event{Phase: "system", Step: "state", State: handoff.Done, Text: text, Data: map[string]any{"device": d.Name, "new": err != nil}})
	return w, nil
}
