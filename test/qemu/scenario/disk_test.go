package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// TestDiskLoaders starts disks as an installation leaves them with each
// firmware and bus: the default slot, the other one when it is the default, and
// the other one when the default slot is damaged. Where the loaders see the bus
// through firmware alone, and where they are another's too, the default slot will do.
func TestDiskLoaders(t *testing.T) {
	for _, c := range []struct {
		name     string
		arch     arch.Arch
		firmware qemu.Firmware
		bus      qemu.Bus
		sector   int
		every    bool // all that can be wrong
	}{
		{"BIOS-virtio", arch.AMD64, qemu.BIOS, qemu.Virtio, 512, true},
		{"BIOS-SATA", arch.AMD64, qemu.BIOS, qemu.SATA, 512, false},
		{"BIOS-NVMe", arch.AMD64, qemu.BIOS, qemu.NVMe, 512, false},
		{"UEFI-virtio", arch.AMD64, qemu.UEFI, qemu.Virtio, 512, *all},
		{"UEFI-NVMe", arch.AMD64, qemu.UEFI, qemu.NVMe, 512, false},
		{"UEFI-4096-byte-sectors", arch.AMD64, qemu.UEFI, qemu.Virtio, 4096, true},
		{"UEFI-SCSI", arch.AMD64, qemu.UEFI, qemu.SCSI, 512, false},
		{"SecureBoot-virtio", arch.AMD64, qemu.SecureBoot, qemu.Virtio, 512, *all},
		{"UEFI-arm64", arch.ARM64, qemu.UEFI, qemu.Virtio, 512, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := openArch(t, c.arch)
			d := newBootDisk(t, m, bootdisk.Geometry{Size: 16 << 30, Sector: c.sector})
			machine := qemu.Machine{Arch: c.arch, Memory: 1024, CPUs: 1, Firmware: c.firmware, Disks: []qemu.Drive{{Path: d.file.Name(), Bus: c.bus, BlockSize: c.sector}}}
			d.starts(machine, bootdisk.A, false)
			if !c.every {
				if c.bus == qemu.Virtio {
					t.Run("faults", func(t *testing.T) {
						t.Skip("skipped: UEFI-4096-byte-sectors has every fault of the same loaders; make test-all has them here too")
					})
				}
				return
			}
			d.write(d.disk.Default(bootdisk.B)...)
			d.starts(machine, bootdisk.B, false)
			d.write(d.withoutInitramfs...)
			d.starts(machine, bootdisk.A, true)
			d.write(d.filled...)
			kernel, _ := d.disk.Area(bootdisk.B)
			d.write(bootdisk.Write{At: kernel.At, Data: make([]byte, 1<<20)})
			d.starts(machine, bootdisk.A, true)
			d.write(d.disk.Clear(bootdisk.B)...)
			d.starts(machine, bootdisk.A, true)
			d.passes(machine)
		})
	}
}

// passes wants firmware to go on to what comes after the disk while nothing on it
// starts: an ISO as the next disk and, where a BIOS asks, in an optical drive.
func (d *bootDisk) passes(m qemu.Machine) {
	d.t.Helper()
	if m.Arch != arch.AMD64 {
		return
	}
	d.write(d.disk.Deactivate()...)
	other := m
	other.Disks = append(slices.Clone(m.Disks), qemu.Drive{Path: iso(d.t), ReadOnly: true})
	all := []qemu.Machine{other}
	if m.Firmware == qemu.BIOS {
		other.Disks = m.Disks
		other.Extra = []string{"-drive", "if=none,id=last,media=cdrom,readonly=on,format=raw,file=" + iso(d.t), "-device", "ide-cd,drive=last,bootindex=9"}
		all = append(all, other)
	}
	for _, m := range all {
		vm := qemutest.Start(d.t, m)
		_, err := vm.Wait(limit(d.t, 10*time.Minute), done("kernel"))
		vm.Close()
		if err != nil {
			d.t.Fatalf("a disk without a finished installation: %v", err)
		}
	}
}

// openArch opens the ISO of an architecture.
func openArch(t *testing.T, a arch.Arch) *medium.Medium {
	t.Helper()
	name := iso(t)
	if a != arch.AMD64 {
		all, err := filepath.Glob(filepath.Join(*out, "*", "*-"+a.String()+".iso"))
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			t.Skipf("SKIPPED: no directory of %s has an ISO for %s", *out, a)
		}
		name = all[0]
	}
	m, err := medium.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// bootDisk is a raw image with both slots filled.
type bootDisk struct {
	t    *testing.T
	disk *bootdisk.Disk
	file *os.File
	// filled describes slot b; withoutInitramfs too, but names no initramfs.
	filled, withoutInitramfs []bootdisk.Write
}

func newBootDisk(t *testing.T, m *medium.Medium, g bootdisk.Geometry) *bootDisk {
	t.Helper()
	d := &bootDisk{t: t}
	raw, err := m.ReadFile(layout.Manifest)
	man := &lock.Manifest{}
	if err == nil {
		err = json.Unmarshal(raw, man)
	}
	if err == nil {
		d.disk, err = bootdisk.Plan(man.Arch, g, bootdisk.NewGUID([16]byte{1, 2, 3}), 1<<30)
	}
	if err == nil {
		d.file, err = os.Create(filepath.Join(t.TempDir(), "disk.img"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.file.Close() })
	loaders := map[string][]byte{}
	var kernel, initramfs lock.Blob
	for _, b := range man.Blobs {
		switch b.Role {
		case lock.RoleKernel:
			kernel = b
		case lock.RoleInitramfs:
			initramfs = b
		case lock.RoleDiskLoader:
			if loaders[path.Base(b.Name)], err = m.ReadFile(medium.Path(b)); err != nil {
				t.Fatal(err)
			}
		}
	}
	format, err := d.disk.Format(loaders)
	if err := errors.Join(err, d.file.Truncate(g.Size)); err != nil {
		t.Fatal(err)
	}
	d.write(append(d.disk.Table(), format...)...)
	for _, s := range []bootdisk.Slot{bootdisk.A, bootdisk.B} {
		k, i := d.disk.Area(s)
		d.copy(m, kernel, k)
		d.copy(m, initramfs, i)
		fill, err := d.disk.Fill(s, kernel.Size, initramfs.Size, fmt.Sprintf("console=tty0 console=%s %s slipway.until=kernel test.slot=%s ds=nocloud;s=x/", man.Arch.Console(), steady, s))
		if err != nil {
			t.Fatal(err)
		}
		d.write(fill...)
		d.filled = fill
	}
	for _, w := range d.filled {
		w.Data = bytes.ReplaceAll(w.Data, []byte("INITRD  IMG"), []byte("LOST    IMG"))   // in the FAT
		w.Data = bytes.ReplaceAll(w.Data, []byte("INITRD.IMG;1"), []byte("INITRD.LST;1")) // in the ISO
		d.withoutInitramfs = append(d.withoutInitramfs, w)
	}
	d.write(d.disk.Activate()...)
	return d
}

func (d *bootDisk) write(ws ...bootdisk.Write) {
	d.t.Helper()
	for _, w := range ws {
		if _, err := d.file.WriteAt(w.Data, w.At); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *bootDisk) copy(m *medium.Medium, b lock.Blob, to bootdisk.Extent) {
	d.t.Helper()
	f, size, err := m.Open(medium.Path(b))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if size > to.Size {
		d.t.Fatalf("%s has %d bytes, a slot has room for %d", b.Name, size, to.Size)
	}
	if _, err := io.Copy(io.NewOffsetWriter(d.file, to.At), io.NewSectionReader(f, 0, size)); err != nil {
		d.t.Fatal(err)
	}
}

// starts runs a machine until PID 1 is there, and checks which slot it came
// from, and whether the command line says that the other one could not be loaded.
func (d *bootDisk) starts(m qemu.Machine, want bootdisk.Slot, fellBack bool) {
	d.t.Helper()
	vm := qemutest.Start(d.t, m)
	defer vm.Close()
	ctx := limit(d.t, 10*time.Minute)
	if _, err := vm.Wait(ctx, done("kernel")); err != nil {
		d.t.Fatal(err)
	}
	for _, line := range vm.Console.Lines() {
		_, args, ok := strings.Cut(line, "Kernel command line: ")
		if !ok {
			continue
		}
		said := strings.Contains(args+" ", " "+bootdisk.FellBack+string(want.Other())+" ")
		if !strings.Contains(args, "test.slot="+string(want)+" ds=nocloud;s=x/") || said != fellBack {
			d.t.Fatalf("slot %s did not start as it should: %s", want, args)
		}
		d.t.Logf("slot %s: %s", want, args)
		return
	}
	d.t.Fatal("the kernel did not print its command line")
}
