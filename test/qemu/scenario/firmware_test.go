package scenario

import (
	"testing"
	"time"

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
		slow     bool
	}{
		{"BIOS-USB", qemu.BIOS, qemu.USB(image), false},
		{"UEFI-CD", qemu.UEFI, qemu.CD(image), false},
		{"UEFI-USB", qemu.UEFI, qemu.USB(image), false},
		{"SecureBoot-CD", qemu.SecureBoot, qemu.CD(image), false},
		{"SecureBoot-USB", qemu.SecureBoot, qemu.USB(image), true},
		{"BIOS-disk", qemu.BIOS, qemu.DiskCopy(image), true},
		{"UEFI-disk", qemu.UEFI, qemu.DiskCopy(image), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.slow && !*all {
				t.Skip("slow: make test-all")
			}
			_, port := network(t)
			vm := qemutest.Start(t, qemu.Machine{Memory: 2048, Firmware: c.firmware, Boot: c.boot, NICs: []*lan.Port{port}, CIDATA: newLogin(t).cidata("node-1")})
			e, err := vm.Wait(limit(t, 20*time.Minute), done("config"))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("config read %.1f s after the kernel started", e.Uptime)
		})
	}
}
