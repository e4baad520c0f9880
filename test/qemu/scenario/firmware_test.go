package scenario

import (
	"strings"
	"testing"

	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
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
			_, port := network(t)
			vm := boot(t, qemu.Machine{Memory: 2048, CPUs: 1, Firmware: c.firmware, Boot: c.boot, NICs: []*lan.Port{port}, CIDATA: newLogin(t).cidata("node-1")})
			for _, e := range vm.Console.Events() {
				if done("config")(e) {
					t.Logf("config read %.1f s after the kernel started", e.Uptime)
				}
			}
		})
	}
}

// TestConfigInsideTheISO boots without any config volume: the one that
// bundle.yaml bakes in is used.
func TestConfigInsideTheISO(t *testing.T) {
	_, port := network(t)
	vm := boot(t, qemu.Machine{Memory: 2048, CPUs: 1, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port}})
	for _, e := range vm.Console.Events() {
		if done("config")(e) && !strings.Contains(e.Text, "the boot medium") {
			t.Errorf("the config is %q", e.Text)
		}
	}
}
