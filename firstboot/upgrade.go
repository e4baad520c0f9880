package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/configs/skew"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/volume"
	"slipway.dev/slipway/images/layout"
)

// upgradePhase is the phase that events of an upgrade belong to, whenever they happen.
const upgradePhase = "upgrade"

// trialLimit is how long a new bundle may take to be Ready unless the operator
// says otherwise; a slow node takes five minutes.
const trialLimit = 20 * time.Minute

// wanted is an upgrade that somebody asked for.
type wanted struct {
	source string // URL as slipway.store= has it, "" for a medium that is plugged in
	order  string // of the seed, "" when it was typed on the node
	bundle string // name and serial that the order is for, "" for any
	limit  time.Duration
}

// is refuses another bundle than the one that the seed's rules were applied to.
func (w wanted) is(m *lock.Manifest) error {
	if w.bundle == "" || w.bundle == title(m) {
		return nil
	}
	return report.Fail("SW-ORDER-BUNDLE", "serve that one, or order it again at the seed: slipway upgrade",
		fmt.Errorf("the order is for %s, and the seed serves %s", w.bundle, title(m)))
}

// errCurrent says that there is nothing to do.
var errCurrent = errors.New("the node runs it already")

// upgrade brings a bundle into the other slot and prepares its trial: the caller
// ends the machine with Kexec. With an error nothing of what the machine starts
// has changed.
func (n *Node) upgrade(ctx context.Context, w wanted) error {
	if !n.upgrading.TryLock() {
		return report.Fail("SW-UPGRADE-BUSY", "wait for it: slipway events -f", errors.New("an upgrade or the installation of this node is under way"))
	}
	defer n.upgrading.Unlock()
	return n.upgradeLocked(ctx, w)
}

// upgradeLocked is upgrade for who holds n.upgrading.
func (n *Node) upgradeLocked(ctx context.Context, w wanted) error {
	d := n.disk
	if d != nil && d.Record.Trial != nil && d.Record.Trial.Step == install.Trying {
		return report.Fail("SW-UPGRADE-BUSY", "wait for it: slipway events -f", fmt.Errorf("%s is on trial", d.Record.Trial.Bundle))
	}
	if d == nil || d.Record.Progress != install.Installed || !d.Active {
		return report.Fail("SW-UPGRADE-DISK", "a node without a disk of its own runs what it is started with: start it from the new medium or seed",
			errors.New("this node is not installed on a disk"))
	}
	b, let, err := n.offered(ctx, w.source)
	if err != nil {
		return err
	}
	defer let()
	if err := w.is(b.Manifest); err != nil {
		return err
	}
	if err := n.permitted(ctx, b.Manifest); err != nil {
		return err
	}
	m, slot := b.Manifest, d.Runs.Other()
	n.upgradeEvent("", handoff.Started, fmt.Sprintf("%s %d, Kubernetes %s, into slot %s; the node runs %s %d, Kubernetes %s",
		m.Name, m.Serial, m.Kubernetes, slot, n.Manifest.Name, n.Manifest.Serial, n.Manifest.Kubernetes), nil)
	if w.limit == 0 {
		w.limit = trialLimit
	}
	began, told := time.Now(), time.Now()
	if err := d.Offer(ctx, install.Trial{Slot: slot, Order: w.order, Limit: w.limit}, b, n.diskCmdline(), func(done, total int64) {
		if time.Since(told) < 3*time.Second && done < total {
			return
		}
		told = time.Now()
		n.upgradeEvent("write", handoff.Running, fmt.Sprintf("%d of %d MB, %.0f s", done/1e6, total/1e6, time.Since(began).Seconds()), map[string]any{"bytes": done, "total": total})
	}); err != nil {
		return storeFailure(err)
	}
	if err := os.RemoveAll(n.before()); err != nil { // of an earlier trial
		return err
	}
	c := n.diskCmdline()
	c.Trial = w.limit.String()
	if !slices.ContainsFunc(c.Extra, func(a string) bool { return strings.HasPrefix(a, "panic=") }) {
		c.Extra = append(c.Extra, "panic=10") // a kernel that panics starts the machine again
	}
	if err := d.Try(install.Plain(m), c); err != nil {
		return err
	}
	n.upgradeEvent("kexec", handoff.Running, fmt.Sprintf("starting slot %s on trial: Ready within %s, or the node goes back to slot %s", slot, w.limit, d.Runs), nil)
	return nil
}

// offered finds the bundle of an upgrade; let lets go of where it is.
func (n *Node) offered(ctx context.Context, source string) (b install.Bundle, let func(), err error) {
	if source != "" {
		s := n.seedFor(upgradePhase, strings.TrimRight(source, "/"))
		limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		b, err = manifestFrom(limit, s, n.key)
		return b, func() {}, err
	}
	devs, err := volume.List("/sys", "/dev")
	if err != nil {
		return b, nil, err
	}
	at := filepath.Join(runDir, "upgrade")
	var errs []error
	for _, d := range find(devs, "iso9660", layout.Volume) {
		b, err = openMedium(d.Path, at, n.key)
		if err == nil {
			return b, func() { _ = unix.Unmount(at, unix.MNT_DETACH) }, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", d.Path, err))
	}
	if errs == nil {
		errs = []error{fmt.Errorf("no volume %q on any device; devices: %s", layout.Volume, names(devs))}
	}
	return b, nil, report.Fail("SW-UPGRADE-MEDIUM", "plug in the new ISO, signed with the key of the one that the node was installed from, or name the URL of a seed that serves it", errors.Join(errs...))
}

// permitted says whether the node may take a bundle, before anything changes.
func (n *Node) permitted(ctx context.Context, m *lock.Manifest) error {
	have := n.Manifest
	if m.Arch != have.Arch {
		return report.Fail("SW-UPGRADE-ARCH", "take the bundle of this node's architecture", fmt.Errorf("the bundle is for %s, the node is %s", m.Arch, have.Arch))
	}
	if m.Name == have.Name && m.Serial == have.Serial {
		return errCurrent
	}
	if err := skew.Bundle(title(have), title(m)); err != nil {
		return report.Fail("SW-UPGRADE-SERIAL", "to go back to an older bundle, reset the node (slipway reset) and install it from that medium", err)
	}
	plane, err := n.planeVersion(ctx)
	if err == nil {
		err = skew.Check(have.Kubernetes, m.Kubernetes, plane)
	}
	if err != nil {
		return report.Fail("SW-UPGRADE-SKEW", "take one minor version after the other, control plane first", err)
	}
	if err := n.roomToKeep(); err != nil {
		return err
	}
	return n.roomForSlot(m)
}

// roomToKeep says whether the state volume can hold what a trial keeps of etcd and
// Kubernetes, besides what it has.
func (n *Node) roomToKeep() error {
	need, err := n.runner().Keeps()
	if err != nil {
		return err
	}
	have, err := free(n.disk.State)
	if err != nil {
		return err
	}
	if have < need {
		return report.Fail("SW-UPGRADE-KEEP", "make room on the state volume: pods' data, logs", fmt.Errorf("the state volume has room for %d MB, etcd's data as it is now takes %d MB more", have/1e6, need/1e6))
	}
	return nil
}

// free is how many bytes a file system has room for.
func free(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("%s: %w", dir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// planeVersion is what the API server runs that a worker belongs to, "" for a
// control plane.
func (n *Node) planeVersion(ctx context.Context) (string, error) {
	if n.User.Slipway.Role != configs.RoleWorker {
		return "", nil
	}
	return n.runner().ServerVersion(ctx)
}

func title(m *lock.Manifest) string { return fmt.Sprintf("%s %d", m.Name, m.Serial) }

// roomForSlot counts the blobs that the slot which runs does not have. What is in
// the other one is either of them, brought by an upgrade that was cut short, or
// makes room.
func (n *Node) roomForSlot(m *lock.Manifest) error {
	d := n.disk
	var need int64
	for _, b := range install.Plain(m).Blobs {
		if name := d.Blob(d.Runs, b); !exists(name) || !strings.HasSuffix(name, string(b.SHA256)) {
			need += b.Size
		}
	}
	have, err := free(d.Store)
	if err != nil {
		return err
	}
	own, err := alone(d.Slot(d.Runs.Other()))
	if err != nil {
		return err
	}
	if have += own; have < need {
		return report.Fail("SW-INSTALL-FULL", "reimage the node: its store was made for smaller bundles", fmt.Errorf("the store has room for %d MB, the bundle brings %d MB", have/1e6, need/1e6))
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// alone is how many bytes the files below a directory take that no other directory has.
func alone(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		if st.Nlink == 1 {
			n += st.Blocks * 512
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) { // nothing was ever there
		err = nil
	}
	return n, err
}

func (n *Node) upgradeEvent(step string, s handoff.State, text string, data map[string]any) {
	e := handoff.Event{Phase: upgradePhase, Step: step, State: s, Text: text, Data: data}
	n.Report.Emit(e)
	if tell := n.asking.Load(); tell != nil {
		(*tell)(e)
	}
}
