package scenario

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

// nodeDisk is large enough for the example bundle and small enough that a host
// without sparse files would notice.
const nodeDisk = 24 << 30

// installing is a config volume that puts the node on the disk with serial
// number NODE.
func (l login) installing(hostname, more string) map[string][]byte {
	config := l.cidata(hostname)
	config["user-data"] = append(config["user-data"], "  install:\n    disk: {serial: NODE}\n"+more...)
	return config
}

// step finds a step's event of a state.
func step(phase, name string, s handoff.State) func(handoff.Event) bool {
	return func(e handoff.Event) bool { return e.Phase == phase && e.Step == name && e.State == s }
}

// caOf is the digest of the cluster's CA certificate on a node.
func caOf(t *testing.T, vm *qemu.VM, l login) string {
	t.Helper()
	ctx := limit(t, 10*time.Minute)
	r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sum, err := r.Must(ctx, "sha256sum", "/etc/kubernetes/pki/ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	return sum[:64]
}

// TestInstall puts nodes on their disks from the ISO, without a second pass
// through the firmware, takes the power away while kubeadm makes a cluster, and
// starts them from that disk alone: they go on with the same CA. The ISO in them
// again changes nothing. TestReady goes all the way to a cluster and back to it.
func TestInstall(t *testing.T) {
	for _, tc := range []struct {
		name     string
		firmware qemu.Firmware
		disk     qemu.Drive
		slow     bool
	}{
		{"UEFI NVMe of 4096-byte sectors", qemu.UEFI, qemu.Drive{Bus: qemu.NVMe, BlockSize: 4096}, false},
		{"BIOS SATA", qemu.BIOS, qemu.Drive{Bus: qemu.SATA}, true},
		{"BIOS SCSI", qemu.BIOS, qemu.Drive{Bus: qemu.SCSI}, true},
		{"Secure Boot virtio", qemu.SecureBoot, qemu.Drive{}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.slow && !*all {
				t.Skip("skipped: TestDiskLoaders starts such a disk and TestReady installs one on BIOS; make test-all installs this one")
			}
			l := newLogin(t)
			_, port := network(t)
			disk := tc.disk
			disk.Path, disk.Size, disk.Serial = filepath.Join(t.TempDir(), "node.img"), nodeDisk, "NODE"
			m := qemu.Machine{Firmware: tc.firmware, Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port},
				CIDATA: l.installing("node-1", ""), Disks: []qemu.Drive{disk},
				Tolerate: func(e handoff.Event) bool { return e.Phase == "services" && e.Step != "" }} // a service that a power cut ended badly is started again
			vm := start(t, m)
			active, err := vm.Wait(limit(t, 40*time.Minute), step("install", "active", handoff.Done))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, %.0f s after power-on\n%s", active.Text, active.Uptime, table(vm.Console.Events()))
			if _, err := vm.Wait(limit(t, 40*time.Minute), inStep("control-plane")); err != nil {
				t.Fatal(err)
			}
			ca := caOf(t, vm, l)
			vm.Close() // SIGKILL: a power cut, while kubeadm writes what the control plane is

			alone := m
			alone.Boot, alone.CIDATA = qemu.Boot{}, nil
			vm = start(t, alone)
			l.reach(t, vm, "services")
			e, err := vm.Wait(limit(t, 40*time.Minute), step("kubernetes", "resume", handoff.Running))
			if err != nil {
				t.Fatal(err)
			}
			if t.Log(e.Text); e.Data["ca"] != ca {
				t.Errorf("it goes on with CA %v, and made %.12s", e.Data["ca"], ca)
			}
			vm.Close()

			vm = start(t, m)
			if e, err = vm.Wait(limit(t, 40*time.Minute), done("install")); err != nil {
				t.Fatal(err)
			}
			if e.Data["progress"] != "installed" || strings.Contains(string(vm.Console.Bytes()), `"step":"write"`) {
				t.Errorf("with the ISO in the machine: %s, %v", e.Text, e.Data)
			}
			l.resets(t, vm)
		})
	}
}

// resets takes a node off its machine: refused without all of the words, then
// the machine powers off, and what was secret is not on its disk any more.
func (l login) resets(t *testing.T, vm *qemu.VM) {
	t.Helper()
	ctx := limit(t, 40*time.Minute)
	if _, err := vm.Wait(ctx, done("services")); err != nil {
		t.Fatal(err)
	}
	r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	secret, err := r.Must(ctx, "sed", "-n", "2p", "/etc/kubernetes/pki/ca.key")
	if err != nil {
		t.Fatal(err)
	}
	secret = strings.TrimSpace(secret)
	if len(secret) != 64 || !holds(t, vm.Machine.Disks[0].Path, secret) {
		t.Fatalf("the disk should have the line %q of the CA's key", secret)
	}
	said, err := r.Must(ctx, "slipway", "reset", "--yes")
	if err == nil || !strings.Contains(err.Error(), "SW-RESET-CONSENT") {
		t.Fatalf("one yes should not do for the only control plane: %v\n%s", err, said)
	}
	t.Logf("slipway reset --yes:\n%s%v", said, err)
	vm.Console.Tolerate = func(e handoff.Event) bool { return e.Phase == "services" || e.Phase == "kubernetes" } // which end
	if *all {
		slowly(t, ctx, vm)
	}
	said, err = r.Must(ctx, "slipway", "reset", "--yes", "--yes-lose-the-cluster")
	t.Logf("slipway reset --yes --yes-lose-the-cluster:\n%s%v", said, err) // it may lose its connection
	if *all {
		vm = cutShort(t, ctx, vm)
	}
	if _, err := vm.Wait(ctx, done("reset")); err != nil {
		t.Fatal(err)
	}
	if err := vm.WaitExit(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", table(vm.Console.Events()))
	if holds(t, vm.Machine.Disks[0].Path, secret) {
		t.Error("the CA's key is still on the disk")
	}
	if hasTable(t, vm.Machine.Disks[0].Path) {
		t.Error("the partition table is still on the disk")
	}
}

// hasTable looks for a GPT, in sectors of either size.
func hasTable(t *testing.T, disk string) bool {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, sector := range []int64{512, 4096} {
		mark := make([]byte, 8)
		if _, err := f.ReadAt(mark, sector); err != nil {
			t.Fatal(err)
		}
		if string(mark) == "EFI PART" {
			return true
		}
	}
	return false
}

// cutShort takes the power in the middle of a reset on a slow disk, which does not
// start any more: the machine's medium starts, and goes on with it.
func cutShort(t *testing.T, ctx context.Context, vm *qemu.VM) *qemu.VM {
	t.Helper()
	e, err := vm.Wait(ctx, step("reset", "disk", handoff.Running))
	if err != nil {
		t.Fatal(err)
	}
	vm.Close() // SIGKILL
	if t.Log(e.Text); !hasTable(t, vm.Machine.Disks[0].Path) {
		t.Fatal("the power went too late: all of the reset was done")
	}
	again := start(t, vm.Machine)
	if e, err = again.Wait(ctx, step("reset", "mark", handoff.Running)); err != nil {
		t.Fatal(err)
	}
	t.Log(e.Text)
	return again
}

// slowly has a machine's first disk take 1 MiB a second from here on, so that the
// power can go in the middle of something.
func slowly(t *testing.T, ctx context.Context, vm *qemu.VM) {
	t.Helper()
	err := vm.Execute(ctx, "block_set_io_throttle", map[string]any{"device": "disk0", "bps": 0, "bps_rd": 0, "bps_wr": 1 << 20, "iops": 0, "iops_rd": 0, "iops_wr": 0}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

// holds looks for a text in all of a disk that is not a hole.
func holds(t *testing.T, disk, text string) bool {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const piece = 4 << 20
	buf := make([]byte, len(text)+piece)
	for end := int64(0); ; {
		at, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false
		}
		if err == nil {
			end, err = f.Seek(at, unix.SEEK_HOLE)
		}
		if err != nil {
			t.Fatal(err)
		}
		for ; at < end; at += piece { // a text may go on into the next piece
			n, err := f.ReadAt(buf, at)
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if bytes.Contains(buf[:n], []byte(text)) {
				return true
			}
		}
	}
}

// reach waits for a phase; when it is the last one the result is the cluster's CA.
func (l login) reach(t *testing.T, vm *qemu.VM, phase string) string {
	t.Helper()
	if _, err := vm.Wait(limit(t, 40*time.Minute), done(phase)); err != nil {
		diagnose(t, vm, l)
		t.Fatal(err)
	}
	t.Logf("from %v:\n%s", vm.Machine.Boot, table(vm.Console.Events()))
	if phase != "ready" {
		return ""
	}
	return caOf(t, vm, l)
}
