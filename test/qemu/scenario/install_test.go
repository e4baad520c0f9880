package scenario

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestInstall puts a node on its disk from the ISO, without a second pass
// through the firmware, and starts it again from that disk alone: the same
// cluster. The ISO left in the machine changes nothing.
func TestInstall(t *testing.T) {
	for _, tc := range []struct {
		name     string
		firmware qemu.Firmware
		disk     qemu.Drive
	}{
		{"BIOS virtio", qemu.BIOS, qemu.Drive{}},
		{"UEFI NVMe of 4096-byte sectors", qemu.UEFI, qemu.Drive{Bus: qemu.NVMe, BlockSize: 4096}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLogin(t)
			_, port := network(t)
			disk := tc.disk
			disk.Path, disk.Size, disk.Serial = filepath.Join(t.TempDir(), "node.img"), nodeDisk, "NODE"
			tolerate := func(e handoff.Event) bool { return e.Phase == "services" && e.Step != "" }
			medium := qemu.Machine{Firmware: tc.firmware, Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port},
				CIDATA: l.installing("node-1", ""), Disks: []qemu.Drive{disk}, Tolerate: tolerate}
			vm := start(t, medium)
			active, err := vm.Wait(limit(t, 40*time.Minute), step("install", "active", handoff.Done))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, %.0f s after power-on", active.Text, active.Uptime)
			if _, err := vm.Wait(limit(t, 40*time.Minute), done("ready")); err != nil {
				diagnose(t, vm, l)
				t.Fatal(err)
			}
			t.Logf("installed and Ready in one boot:\n%s", table(vm.Console.Events()))
			ca := caOf(t, vm, l)
			vm.Close() // SIGKILL: a power cut

			alone := medium
			alone.Boot, alone.CIDATA = qemu.Boot{}, nil
			vm = start(t, alone)
			if _, err := vm.Wait(limit(t, 40*time.Minute), done("ready")); err != nil {
				diagnose(t, vm, l)
				t.Fatal(err)
			}
			t.Logf("from its own disk:\n%s", table(vm.Console.Events()))
			if got := caOf(t, vm, l); got != ca {
				t.Errorf("another cluster: CA %.12s, before %.12s", got, ca)
			}
			vm.Close()

			vm = start(t, medium)
			e, err := vm.Wait(limit(t, 40*time.Minute), done("install"))
			if err != nil {
				t.Fatal(err)
			}
			if e.Data["progress"] != "installed" || strings.Contains(string(vm.Console.Bytes()), `"step":"write"`) {
				t.Errorf("with the ISO in the machine: %s, %v", e.Text, e.Data)
			}
		})
	}
}
