package scenario

import (
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
// system, by the operator's consent, who sees his mistake in the half minute that
// he is given: the disk is as it was, and the machine holds.
func TestUndoWipe(t *testing.T) {
	t.Parallel()
	dir := packed(t)
	seg := qemutest.LAN(t, lan.Options{Domains: []string{"cluster.local", "local"}})
	s := newStation(t, seg, "10.77.0.1/24", newLogin(t).cluster()+"  install: {disk: {serial: NODE}}\n", filepath.Join(dir, built(t, dir).ISO.Path))
	s.start()
	disk := filepath.Join(t.TempDir(), "node.img")
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-L", "precious", disk, "24G").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	before := beginning(t, disk)
	vm := qemutest.Start(t, qemu.Machine{Name: "blank", Memory: 2048, CPUs: 1, Firmware: qemu.UEFI, Boot: qemu.Network(), NICs: []*lan.Port{qemutest.Port(t, seg, "blank")},
		Disks:    []qemu.Drive{{Path: disk, Serial: "NODE"}},
		Tolerate: failed("SW-UNDO-DONE")})
	ctx := limit(t, 30*time.Minute)
	s.until(ctx, "the machine asks to become a node", waiting(1), vm)
	out, err := s.run(ctx, "approve", codeOnScreen(t, ctx, vm), "--wipe", "NODE")
	if err != nil {
		t.Fatal(err)
	}
	pause, err := vm.Wait(ctx, func(e handoff.Event) bool { return e.Step == "undo" && strings.Contains(e.Text, "is written in") })
	if err != nil {
		t.Fatal(err)
	}
	all := s.until(ctx, "the seed has what is going to be overwritten", func(all []seed.Machine) bool { return len(all) == 1 && all[0].Wipe != nil }, vm)
	said, err := s.run(ctx, "undo-wipe", all[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	e, err := vm.Wait(ctx, failed("SW-UNDO-DONE"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s%s\nslipway undo-wipe %s:\n%s%s\n  next: %s", out, pause.Text, all[0].Name, said, e.Text, e.Hint)
	vm.Close()
	if after := beginning(t, disk); after != before {
		t.Error("the disk is not as it was")
	}
	if out, err := exec.Command("e2fsck", "-f", "-n", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
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
