package scenario

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// TestUndoWipe lets a blank machine's installer have a disk that holds a file
// system, by the operator's consent, who sees his mistake: in the half minute that
// he is given, or when the power went while the tables were being written. The
// disk is as it was, and the machine holds.
func TestUndoWipe(t *testing.T) {
	t.Run("in the half minute", func(t *testing.T) {
		t.Parallel()
		if !*all {
			t.Skip("skipped: after a power cut more has to be undone; make test-all does both")
		}
		w := newWiping(t)
		vm := w.consents()
		w.undone(vm, w.undoes())
	})
	t.Run("after a power cut", func(t *testing.T) {
		t.Parallel()
		w := newWiping(t)
		vm := w.consents()
		slowly(t, w.ctx, vm) // the power goes in the middle of its tables
		w.divided(vm)
		vm.Close() // SIGKILL
		if beginning(t, w.disk) == w.before {
			t.Fatal("nothing was written")
		}
		said := w.undoes()
		w.undone(w.start(), said)
	})
}

// wiping is a machine whose disk held something of others.
type wiping struct {
	*station
	t      *testing.T
	ctx    context.Context
	disk   string
	before [sha256.Size]byte
	m      qemu.Machine
}

func newWiping(t *testing.T) *wiping {
	dir := packed(t)
	seg := qemutest.LAN(t, lan.Options{Domains: []string{"cluster.local", "local"}})
	w := &wiping{t: t, ctx: limit(t, 30*time.Minute), disk: filepath.Join(t.TempDir(), "node.img"),
		station: newStation(t, seg, "10.77.0.1/24", newLogin(t).cluster()+"  install: {disk: {serial: NODE}}\n", filepath.Join(dir, built(t, dir).ISO.Path))}
	w.station.start()
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-L", "precious", w.disk, "24G").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	w.before = beginning(t, w.disk)
	w.m = qemu.Machine{Name: "blank", Memory: 2048, CPUs: 1, Firmware: qemu.UEFI, Boot: qemu.Network(), NICs: []*lan.Port{qemutest.Port(t, seg, "blank")},
		Disks:    []qemu.Drive{{Path: w.disk, Serial: "NODE"}},
		Tolerate: failed("SW-UNDO-DONE")}
	return w
}

func (w *wiping) start() *qemu.VM { return qemutest.Start(w.t, w.m) }

// consents starts the machine and approves it, until it says that it will write.
func (w *wiping) consents() *qemu.VM {
	w.t.Helper()
	vm := w.start()
	w.until(w.ctx, "the machine asks to become a node", waiting(1), vm)
	out, err := w.run(w.ctx, "approve", codeOnScreen(w.t, w.ctx, vm), "--wipe", "NODE")
	if err != nil {
		w.t.Fatal(err)
	}
	pause, err := vm.Wait(w.ctx, func(e handoff.Event) bool { return e.Step == "undo" && strings.Contains(e.Text, "is written in") })
	if err != nil {
		w.t.Fatal(err)
	}
	w.until(w.ctx, "the seed has what is going to be overwritten", func(all []seed.Machine) bool { return len(all) == 1 && all[0].Wipe != nil }, vm)
	w.t.Logf("%s%s", out, pause.Text)
	return vm
}

// divided waits until the disk has a partition table.
func (w *wiping) divided(vm *qemu.VM) {
	w.t.Helper()
	f, err := os.Open(w.disk)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	for mark := make([]byte, 8); string(mark) != "EFI PART"; {
		if _, err := f.ReadAt(mark, 512); err != nil {
			w.t.Fatal(err)
		}
		select {
		case <-w.ctx.Done():
			w.t.Fatalf("no table was written: %s", vm.Console.Tail(20))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answer is what a verb printed.
type answer struct {
	text string
	err  error
}

// undoes is the operator, once the seed has his word: said is what his terminal
// shows when the machine has answered.
func (w *wiping) undoes() (said <-chan answer) {
	w.t.Helper()
	all, err := w.machines(w.ctx)
	if err != nil || len(all) != 1 {
		w.t.Fatal(all, err)
	}
	out := make(chan answer, 1)
	go func() {
		text, err := w.run(w.ctx, "undo-wipe", all[0].Name)
		out <- answer{text, err}
	}()
	w.until(w.ctx, "the seed knows that", func(all []seed.Machine) bool { return len(all) == 1 && !all[0].Wipe.Asked.IsZero() })
	return out
}

// undone waits for the machine to say so, and compares.
func (w *wiping) undone(vm *qemu.VM, said <-chan answer) {
	w.t.Helper()
	e, err := vm.Wait(w.ctx, failed("SW-UNDO-DONE"))
	if err != nil {
		w.t.Fatal(err)
	}
	operator := <-said
	w.t.Logf("slipway undo-wipe:\n%s%s\n  next: %s", operator.text, e.Text, e.Hint)
	if operator.err != nil {
		w.t.Error(operator.err)
	}
	vm.Close()
	if beginning(w.t, w.disk) != w.before {
		w.t.Error("the disk is not as it was")
	}
	if out, err := exec.Command("e2fsck", "-f", "-n", w.disk).CombinedOutput(); err != nil {
		w.t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// beginning is a digest of what an installer writes first, and more.
func beginning(t *testing.T, disk string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyN(h, f, 2<<30); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
