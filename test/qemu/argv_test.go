package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/test/qemu/lan"
)

var update = flag.Bool("update", false, "write testdata/*.argv")

func TestArgvGolden(t *testing.T) {
	bios := Files{Emulator: "qemu", Console: "run/console.sock", QMP: "run/qmp.sock"}
	uefi := bios
	uefi.Code, uefi.Vars = "CODE.fd", "run/vars.fd"
	media := map[string]Boot{
		"cd": CD("a,b.iso"), "usb": USB("a.iso"), "disk": Disk("disk.img"), "diskcopy": DiskCopy("disk.img"),
		"network": Network(), "kernel": Kernel("vmlinuz", "initrd.img", "console=ttyS0 quiet"), "none": {},
	}
	nics := []*lan.Port{{Name: "a", MAC: []byte{2, 0, 0, 0, 0, 1}}, {Name: "b", MAC: []byte{2, 0, 0, 0, 0, 2}}}
	for medium, boot := range media {
		for name, m := range map[string]Machine{
			"amd64-bios":       {Firmware: BIOS},
			"amd64-uefi":       {Firmware: UEFI},
			"amd64-secureboot": {Firmware: SecureBoot},
			"arm64-uefi":       {Arch: arch.ARM64, Firmware: UEFI},
		} {
			m.Boot, m.NICs = boot, nics
			f := uefi
			if m.Firmware == BIOS {
				f = bios
			}
			golden(t, name+"-"+medium, m, f)
		}
	}
	golden(t, "arm64-kernel", Machine{Arch: arch.ARM64, Boot: media["kernel"]}, bios)
	everything := uefi
	everything.CIDATA = "run/cidata.img"
	golden(t, "everything", Machine{
		Name: "cp,1", Firmware: UEFI, Memory: 4096, CPUs: 4, Boot: CD("a.iso"), NICs: nics[:1],
		Disks: []Drive{
			{Path: "a.img", Serial: "A1"}, {Path: "b.qcow2", Format: "qcow2", Bus: SATA},
			{Path: "c.img", Bus: NVMe, BlockSize: 4096}, {Path: "d.img", Bus: USBBus}, {Path: "e.img", Bus: USBBus, ReadOnly: true},
			{Path: "f.img", Bus: SCSI, Serial: "F"}, {Path: "g.img", Bus: SCSI},
		},
		RTC: time.Date(2011, 11, 11, 11, 11, 11, 0, time.UTC), Serial: "S-1", NoReboot: true,
		CPU: "max,-cx16", Extra: []string{"-device", "x"},
	}, everything)
}

// TestDriveGolden: disks that are recorded, that fail, that somebody serves.
func TestDriveGolden(t *testing.T) {
	fail := []Fault{{On: OnWrite, At: 1 << 20, Once: true}, {On: OnRead, At: -1, Errno: 28}}
	golden(t, "drives", Machine{Disks: []Drive{
		{Path: "a,1.img", Log: "a,1.log", Serial: "A"},
		{Path: "b.img", Log: "b.log", Bus: NVMe, BlockSize: 4096, Faults: fail},
		{Path: "c.qcow2", Format: "qcow2", Bus: SATA, Faults: fail[:1]},
		{Path: "d.sock", Format: NBD},
		{Path: "e.sock", Format: NBD, Log: "e.log"},
	}}, Files{Emulator: "qemu", Console: "run/console.sock", QMP: "run/qmp.sock"})
}

func golden(t *testing.T, name string, m Machine, f Files) {
	t.Helper()
	var got strings.Builder
	for _, a := range Argv(m, f) {
		if strings.HasPrefix(a, "-") && got.Len() > 0 {
			got.WriteByte('\n')
		} else if got.Len() > 0 {
			got.WriteByte(' ')
		}
		got.WriteString(a)
	}
	got.WriteByte('\n')
	path := filepath.Join("testdata", name+".argv")
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s(go test -update writes it)", name, got.String(), want)
	}
}

func TestNeverKVMByItself(t *testing.T) {
	for _, a := range arch.All() {
		s := strings.Join(Argv(Machine{Arch: a}, Files{}), " ")
		if !strings.Contains(s, "-accel tcg ") || strings.Contains(s, "kvm") {
			t.Errorf("%s: %s", a, s)
		}
	}
	if s := strings.Join(Argv(Machine{Accel: "kvm"}, Files{}), " "); !strings.Contains(s, "-accel kvm -cpu host") {
		t.Errorf("asked for: %s", s)
	}
}

func TestFindRefuses(t *testing.T) {
	for _, m := range []Machine{{Firmware: "coreboot"}, {Arch: arch.ARM64, Firmware: BIOS}} {
		_, err := Find(m)
		if err == nil || !strings.Contains(err.Error(), string(m.Firmware)) {
			t.Errorf("%+v: got %v", m, err)
		}
	}
}

func TestMissingErrorNamesPackage(t *testing.T) {
	for _, tt := range []struct {
		arch     arch.Arch
		firmware Firmware
		want     string
	}{{arch.AMD64, UEFI, "ovmf"}, {arch.AMD64, SecureBoot, "ovmf"}, {arch.ARM64, UEFI, "qemu-efi-aarch64"}, {arch.ARM64, SecureBoot, "qemu-efi-aarch64"}} {
		list, pkg := candidates(tt.arch, tt.firmware)
		if pkg != tt.want || len(list) == 0 {
			t.Errorf("%s %s: package %q, %d candidates; want %q", tt.arch, tt.firmware, pkg, len(list), tt.want)
		}
	}
	e := &MissingError{What: "uefi firmware for arm64", Tried: []string{"/a", "/b"}, Package: "qemu-efi-aarch64"}
	if want := `uefi firmware for arm64 not found (tried /a, /b): install the Debian package "qemu-efi-aarch64"`; e.Error() != want {
		t.Errorf("got %q, want %q", e.Error(), want)
	}
}

func TestPatience(t *testing.T) {
	for _, tt := range []struct {
		factor string
		want   time.Duration
		bad    bool
	}{{"", time.Minute, false}, {"2.5", 150 * time.Second, false}, {"0", 0, true}, {"-1", 0, true}, {"NaN", 0, true}, {"x", 0, true}} {
		got, err := Patience(time.Minute, tt.factor)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("factor %q: got %s, %v; want %s", tt.factor, got, err, tt.want)
		}
	}
}
