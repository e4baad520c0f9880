package qemu_test

import (
	"context"
	"errors"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// patience bounds a wait for a boot sector, which takes a second or two.
func patience(t *testing.T) context.Context {
	t.Helper()
	d, err := qemu.Patience(2*time.Minute, os.Getenv("SLIPWAY_PATIENCE"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// bootDisk writes a boot sector and returns its path.
func bootDisk(t *testing.T, text string, wait bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boot.img")
	if err := os.WriteFile(path, qemu.BootSector([]byte(text), wait), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMachineEventsAndExit(t *testing.T) {
	event := handoff.Event{Seq: 1, Phase: "config", State: handoff.Done, Text: "found"}
	text := "HELLO\r\n[    0.1] noise " + string(event.Line()[:len(event.Line())-1]) + "\r\nBYE"
	m := qemutest.Start(t, qemu.Machine{
		Memory: 64, CPUs: 1, Boot: qemu.DiskCopy(bootDisk(t, text, true)),
		CIDATA: map[string][]byte{"meta-data": []byte("instance-id: x\n")},
		Extra:  []string{"-device", qemu.ExitDevice},
	})
	ctx := patience(t)
	got, err := m.WaitPhase(ctx, "config", handoff.Done)
	if err != nil {
		t.Fatal(err)
	}
	if got.Text != "found" || got.Seq != 1 {
		t.Errorf("got event %+v, want text %q and seq 1", got, "found")
	}
	if line, err := m.WaitLine(ctx, "BYE"); err != nil || line != "BYE" {
		t.Errorf("got line %q, %v; want the unfinished BYE", line, err)
	}
	shot := filepath.Join(t.TempDir(), "screen.png")
	if err := m.Screendump(ctx, shot); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(shot)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dx() < 320 {
		t.Errorf("screendump: %v, %v", img, err)
	}
	if err := m.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitLine(ctx, "BYE"); err != nil { // of the second boot
		t.Fatal(err)
	}
	if n := len(m.Console.Events()); n != 2 {
		t.Errorf("got %d events after a reset, want 2", n)
	}
	if err := m.Type("x"); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitExit(ctx); err == nil || !strings.Contains(err.Error(), "exit status 99") {
		t.Fatalf("waiting for the end: got %v, want exit status 99", err)
	}
	if m.ExitCode() != qemu.ProbeExit {
		t.Errorf("exit status %d, want %d", m.ExitCode(), qemu.ProbeExit)
	}
	_, err = m.WaitPhase(ctx, "ready", handoff.Done)
	if err == nil || !strings.Contains(err.Error(), "console ended") || !strings.Contains(err.Error(), "HELLO") {
		t.Errorf("waiting on an ended machine: got %v, want the end and the console", err)
	}
}

func TestFailedEventEndsWait(t *testing.T) {
	event := handoff.Event{Phase: "install", State: handoff.Failed, Code: "SW-X", Text: "no disk"}
	m := qemutest.Start(t, qemu.Machine{
		Memory: 64, CPUs: 1, Boot: qemu.DiskCopy(bootDisk(t, string(event.Line()), true)),
	})
	_, err := m.WaitPhase(patience(t), "ready", handoff.Done)
	var failed *qemu.FailedError
	if !errors.As(err, &failed) || failed.Event.Code != "SW-X" {
		t.Fatalf("got %v, want the failed event", err)
	}
	if !strings.Contains(err.Error(), `phase "install" failed (SW-X): no disk`) {
		t.Errorf("error does not explain itself: %v", err)
	}
	m.Kill()
	if m.ExitCode() != -1 {
		t.Errorf("exit status of a killed machine: %d, want -1", m.ExitCode())
	}
}

// The PXE ROM, OVMF and AAVMF are real DHCP clients: each takes a lease over
// the switch and the host's network stack, and asks nobody outside.
func TestNetworkBootTakesLease(t *testing.T) {
	for name, m := range map[string]qemu.Machine{
		"bios":       {Firmware: qemu.BIOS, Memory: 128},
		"uefi":       {Firmware: qemu.UEFI, Memory: 256},
		"arm64-uefi": {Arch: arch.ARM64, Firmware: qemu.UEFI, Memory: 256},
	} {
		t.Run(name, func(t *testing.T) {
			s := qemutest.LAN(t, lan.Options{Capture: filepath.Join(t.TempDir(), "lan.pcap")})
			gateway := qemutest.Gateway(t, s, lan.DHCP{})
			port := qemutest.Port(t, s, "pxe")
			m.CPUs, m.Boot, m.NICs = 1, qemu.Network(), []*lan.Port{port}
			v := qemutest.Start(t, m)
			ctx := patience(t)
			for {
				if a, ok := gateway.Lease(port.MAC); ok {
					if want := "10.77.0.100"; a.String() != want {
						t.Errorf("lease %s, want %s", a, want)
					}
					break
				}
				select {
				case <-ctx.Done():
					t.Fatalf("no lease; counters %+v", port.Counters())
				case <-v.Exited():
					t.Fatal("the machine ended")
				case <-time.After(100 * time.Millisecond):
				}
			}
			if err := v.SetLink(ctx, 0, false); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEmulatorComplaintIsTheError(t *testing.T) {
	_, err := qemu.Find(qemu.Machine{})
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	_, err = qemu.Start(t.Context(), qemu.Machine{Extra: []string{"-device", "no-such-device"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-device") {
		t.Errorf("got %v, want the emulator's complaint", err)
	}
}

// QEMU itself checks every command line; the guest never runs (-S).
func TestEmulatorTakesEveryCommandLine(t *testing.T) {
	image := bootDisk(t, "", false)
	segment := qemutest.LAN(t, lan.Options{})
	for _, m := range []qemu.Machine{
		{Firmware: qemu.BIOS}, {Firmware: qemu.UEFI}, {Firmware: qemu.SecureBoot},
		{Arch: arch.ARM64, Firmware: qemu.UEFI},
	} {
		for name, b := range map[string]qemu.Boot{
			"cd": qemu.CD(image), "usb": qemu.USB(image), "disk": qemu.Disk(image),
			"diskcopy": qemu.DiskCopy(image), "network": qemu.Network(),
		} {
			t.Run(string(m.Arch)+string(m.Firmware)+"-"+name, func(t *testing.T) {
				dir := t.TempDir()
				m.Memory, m.Boot, m.Extra, m.NoReboot = 64, b, []string{"-S"}, true
				m.NICs = []*lan.Port{qemutest.Port(t, segment, t.Name())}
				m.CIDATA = map[string][]byte{"user-data": []byte("#cloud-config\n")}
				m.Serial, m.RTC = "S-1", time.Date(2011, 11, 11, 11, 11, 11, 0, time.UTC)
				m.Disks = []qemu.Drive{
					{Path: filepath.Join(dir, "a"), Size: 1 << 20, Serial: "A1"},
					{Path: filepath.Join(dir, "c"), Size: 1 << 20, Bus: qemu.NVMe, BlockSize: 4096},
					{Path: filepath.Join(dir, "d"), Size: 1 << 20, Bus: qemu.USBBus},
					{Path: filepath.Join(dir, "e"), Size: 1 << 20, Bus: qemu.SCSI, Serial: "E1"},
				}
				if m.Arch != arch.ARM64 {
					m.Disks = append(m.Disks, qemu.Drive{Path: filepath.Join(dir, "b"), Size: 1 << 20, Bus: qemu.SATA})
				}
				v := qemutest.Start(t, m)
				var status struct{ Status string }
				if err := v.Execute(patience(t), "query-status", nil, &status); err != nil || status.Status != "prelaunch" {
					t.Errorf("got %+v, %v; want prelaunch", status, err)
				}
			})
		}
	}
}

// ProbeKVM must answer on any host, also where the device is there and guests
// hang; what it answers depends on the host.
func TestProbeKVMAnswers(t *testing.T) {
	if _, err := qemu.Find(qemu.Machine{}); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	t.Logf("ProbeKVM: %v", qemu.ProbeKVM(patience(t)))
}

func TestProbeBelievesOnlyACleanExit(t *testing.T) {
	if _, err := qemu.Find(qemu.Machine{}); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	if err := qemu.Probe(patience(t), "tcg", "qemu64,-cx16"); err != nil {
		t.Errorf("the probe's guest under TCG: %v", err)
	}
	if err := qemu.Probe(patience(t), "no-such-accelerator", "qemu64"); err == nil {
		t.Error("an accelerator that does not exist is usable")
	}
}
