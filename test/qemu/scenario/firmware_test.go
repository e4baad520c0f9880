package scenario

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// TestEveryFirmwareReachesItsConfig boots the one ISO in each way a machine
// may and waits until PID 1 has found and read its config. BIOS from a CD is
// the way of TestReady.
func TestEveryFirmwareReachesItsConfig(t *testing.T) {
	image := iso(t)
	for _, c := range []struct {
		name     string
		firmware qemu.Firmware
		boot     qemu.Boot
	}{
		{"BIOS-USB", qemu.BIOS, qemu.USB(image)},
		{"UEFI-CD", qemu.UEFI, qemu.CD(image)},
		{"UEFI-USB", qemu.UEFI, qemu.USB(image)},
		{"SecureBoot-CD", qemu.SecureBoot, qemu.CD(image)},
		{"SecureBoot-USB", qemu.SecureBoot, qemu.USB(image)},
		{"BIOS-disk", qemu.BIOS, qemu.DiskCopy(image)},
		{"UEFI-disk", qemu.UEFI, qemu.DiskCopy(image)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, port := network(t)
			vm := start(t, qemu.Machine{Memory: 2048, CPUs: 1, Firmware: c.firmware, Boot: c.boot, NICs: []*lan.Port{port}, CIDATA: newLogin(t).cidata("node-1")})
			for _, e := range vm.Console.Events() {
				if done("config")(e) {
					t.Logf("config read %.1f s after the kernel started", e.Uptime)
				}
			}
		})
	}
}

// TestPackedISO boots an ISO whose blobs are zstd frames until its content is in
// memory, verified and mounted, and once more with too little memory for that.
func TestPackedISO(t *testing.T) {
	dir := packed(t)
	image := filepath.Join(dir, built(t, dir).ISO.Path)
	_, port := network(t)
	vm := start(t, qemu.Machine{Memory: 4096, Boot: qemu.CD(image), NICs: []*lan.Port{port}, CIDATA: newLogin(t).cidata("node-1")})
	content := func(e handoff.Event) bool {
		return e.Phase == "system" && e.Step == "content" && e.State == handoff.Done
	}
	e, err := vm.Wait(limit(t, 30*time.Minute), content)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s, %.1f s after the kernel started", e.Text, e.Uptime)
	vm.Close()

	small := qemutest.Start(t, qemu.Machine{Memory: 2048, CPUs: 1, Boot: qemu.CD(image), NICs: []*lan.Port{port}, CIDATA: newLogin(t).cidata("node-1"), Tolerate: failed("SW-MEMORY")})
	e, err = small.Wait(limit(t, 30*time.Minute), failed("SW-MEMORY"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s (%s)", e.Code, e.Text, e.Hint)
}

// TestConfigInsideTheISO boots without any config volume: the one that
// bundle.yaml bakes in is used.
func TestConfigInsideTheISO(t *testing.T) {
	t.Parallel()
	_, port := network(t)
	vm := start(t, qemu.Machine{Memory: 2048, CPUs: 1, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port}})
	for _, e := range vm.Console.Events() {
		if done("config")(e) && !strings.Contains(e.Text, "the boot medium") {
			t.Errorf("the config is %q", e.Text)
		}
	}
}
