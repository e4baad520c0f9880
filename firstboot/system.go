package firstboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/root"
	"slipway.dev/slipway/firstboot/watchdog"
)

// base is where the system root is put together in the initramfs.
const base = "/sysroot"

// systemPhase goes on in the same process after the root has changed: leases,
// listeners and the count of events live on, and there is no state to hand
// over. The program of the initramfs stays in memory for that, 11 MB.
func systemPhase(ctx context.Context, n *Node) error {
	b, err := n.Manifest.Find(lock.RoleSystem)
	if err != nil {
		return err
	}
	if err := n.system.wait(ctx); err != nil {
		return n.onDisk(b, err)
	}
	w, err := n.writable(ctx)
	if err != nil {
		return err
	}
	if err := root.Assemble(n.Store.Path(b), base, w); err != nil {
		return report.Fail("SW-SYSTEM-MOUNT", "build the image again, and give the machine at least 4 GB of memory", err)
	}
	if err := root.Switch(base); err != nil {
		return report.Fail("SW-SYSTEM-SWITCH", "report this with the screen", err)
	}
	n.step("root", "the system root is /", nil)
	_ = os.Remove("/etc/resolv.conf")
	if err := os.Symlink(resolv, "/etc/resolv.conf"); err != nil {
		return err
	}
	n.verifyContent()
	if err := n.moreDrivers(); err != nil {
		return err
	}
	n.own("system", "watchdog", func(ctx context.Context) {
		err := watchdog.Run(ctx, "/dev/watchdog", func(d time.Duration) {
			n.Report.Emit(handoff.Event{Phase: "system", Step: "watchdog", State: handoff.Done, Text: fmt.Sprintf("the machine restarts after %.0f s without a sign of life", d.Seconds())})
		})
		if err != nil && !watchdog.Missing(err) {
			n.log.Warn("watchdog", "err", err)
		}
	})
	if err := setSysctls("/proc/sys", sysctls()); err != nil {
		return report.Fail("SW-SYSTEM-SYSCTL", "boot the kernel that belongs to the bundle", err)
	}
	debug.FreeOSMemory()
	n.done(fmt.Sprintf("%s, %d MB, verified and mounted", b.Name, b.Size/1e6), map[string]any{"bytes": b.Size})
	return nil
}

// bringSystem reads system.erofs and says how far it is, whichever phase it is in.
func (n *Node) bringSystem(ctx context.Context, s *blobs.Store, b lock.Blob) error {
	began, told := time.Now(), time.Now()
	return s.Bring(ctx, b, func(done int64) {
		if time.Since(told) < 3*time.Second && done < b.Size {
			return
		}
		told = time.Now()
		n.Report.Emit(handoff.Event{Phase: "system", Step: "verify", State: handoff.Running,
			Text: fmt.Sprintf("%s: %d of %d MB read, %.0f s", b.Name, done/1e6, b.Size/1e6, time.Since(began).Seconds()),
			Data: map[string]any{"bytes": done, "total": b.Size}})
	})
}

// verifyContent verifies image layers and archives in the background. A layer
// becomes visible to containerd when it is right and not before.
func (n *Node) verifyContent() {
	var all []lock.Blob
	var total int64
	for _, b := range n.Manifest.Blobs {
		if b.Role == lock.RoleLayer || b.Role == lock.RoleImages || n.writing() && b.Role != lock.RoleSystem {
			all = append(all, b)
			total += b.Size
		}
	}
	v := &verdict{done: make(chan struct{})}
	n.content = v
	n.own("system", "content", func(ctx context.Context) {
		defer close(v.done)
		began := time.Now()
		for _, b := range all {
			if err := n.Store.Bring(ctx, b, nil); err != nil {
				v.err = n.onDisk(b, err)
				break
			}
			if v.err = n.Store.LinkLayer(layerDir, b); v.err != nil {
				break
			}
		}
		if v.err == nil {
			v.err = n.installed()
		}
		if v.err != nil {
			n.Report.Error("system", "content", storeFailure(v.err), nil)
			return
		}
		n.Report.Emit(handoff.Event{Phase: "system", Step: "content", State: handoff.Done, Text: fmt.Sprintf("%d blobs of image content verified", len(all)),
			Data: map[string]any{"blobs": len(all), "bytes": total, "seconds": seconds(time.Since(began))}})
	})
}

// contentVerified waits until all image content is verified.
func (n *Node) contentVerified(ctx context.Context) error {
	return storeFailure(n.content.wait(ctx))
}

// onDisk gives a blob that was read wrong its code. On the node's own disk that
// is the disk's fault: a disk that is being installed brings the blob again at
// the next start.
func (n *Node) onDisk(b lock.Blob, err error) error {
	if n.disk == nil {
		return storeFailure(err)
	}
	f := report.Fail("SW-DISK-DIGEST", "the disk does not give back what was written: replace it, and install the node again", fmt.Errorf("%s: %w", n.disk.Path, err))
	if n.writing() {
		f = report.Fail("SW-INSTALL-VERIFY", "start the machine again to write the blob once more; if that does not help, replace the disk", fmt.Errorf("%s: %w", n.disk.Path, err))
		err = n.disk.Bad(n.disk.Runs, b)
		if err != nil {
			n.log.Warn("taking a bad blob away", "blob", b.Name, "err", err)
		}
	}
	return f
}

// storeFailure gives an error of the store its code.
func storeFailure(err error) error {
	if _, coded := errors.AsType[*report.Failure](err); err == nil || coded {
		return err
	}
	_, wrong := errors.AsType[*store.ChunkError](err)
	if _, short := errors.AsType[*store.SizeError](err); wrong || short {
		return report.Fail("SW-STORE-DIGEST", "the medium is damaged or was changed: write it again, or take another one", err)
	}
	if _, ok := errors.AsType[*blobs.MissingError](err); ok {
		return report.Fail("SW-STORE-MISSING", "the medium is not complete: write it again", err)
	}
	return report.Fail("SW-STORE-READ", "the medium cannot be read: take another one, or another port", err)
}
